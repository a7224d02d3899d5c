"""What lies beside a model's weights for its task: tokenizer, processors. None of the folder's own code is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score.architectures.sentence_encoder import read_json
from score.errors import MalformedFile
from score.formats.base import Beside
from score.inference.preprocess import texts

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class Parts:
    """Objects of transformers; None for what is not there."""

    folder: Path
    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None

    def inputs(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """What the model takes of what the tokenizer has made."""
        return {name: made[name] for name in self.tokenizer.model_input_names if name in made}


def read(folder: Path, beside: Beside) -> Parts:
    """The tokenizer and the processor of pictures in a model's folder, or beside it. Raises `MalformedFile` for one
    that can't be read."""
    import transformers

    transformers.logging.set_verbosity_error()  # it warns of texts that are too long, which are refused here
    words = beside.tokenizer or folder
    tokenizer = _made(transformers.AutoTokenizer, words, "a tokenizer") if texts.is_there(words) else None
    if (
        tokenizer is not None and tokenizer.pad_token is None
    ):  # GPT-2 and others have none; the mask says what is padding
        tokenizer.pad_token = tokenizer.eos_token
    pictures = None
    pixels = beside.processor or folder
    sounds = None
    if _extracts(pixels):
        sounds = _made(transformers.AutoFeatureExtractor, pixels, "a feature extractor")
    elif (pixels / "preprocessor_config.json").is_file() or (pixels / "processor_config.json").is_file():
        pictures = _made(transformers.AutoImageProcessor, pixels, "an image processor", optional=tokenizer is not None)
    return Parts(folder, tokenizer, pictures, sounds)


def _extracts(folder: Path) -> bool:
    """Whether a folder says how recordings become inputs."""
    said = read_json(folder / "preprocessor_config.json")
    if said is None:
        whole = read_json(folder / "processor_config.json")
        said = whole.get("feature_extractor") if isinstance(whole, dict) else None
    return isinstance(said, dict) and "feature_extractor_type" in said and "sampling_rate" in said


def _made(cls: Any, folder: Path, what: str, *, optional: bool = False) -> Any:
    try:
        return cls.from_pretrained(str(folder), **_LOCAL)
    except Exception as error:  # noqa: BLE001  # transformers and its parsers raise anything
        if optional:
            return None
        raise MalformedFile(
            f"{folder.name}: transformers can't make {what} of its files ({type(error).__name__}: {str(error)[:300]})",
            hint="Get these files again, or set SCORE_TASK=tensors to serve the model as it is, with tensors.",
        ) from None
