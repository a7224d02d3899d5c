"""Which task a model is for: as the settings say, as its folder says, or by its class."""

from score.errors import InvalidSetting
from score.inference.tasks.parameters import BY_TASK

TENSORS = "tensors"
ALIASES = {
    "sentiment-analysis": "text-classification", "ner": "token-classification", "mask-fill": "fill-mask",
    "sentence-similarity": "sentence-embeddings", "embeddings": "sentence-embeddings", "rerank": "text-ranking",
    "text2text": "text2text-generation", "conversational": "text-generation", "chat-completion": "text-generation",
    "multiclass": "text-classification", "multilabel": "text-classification",
    "named-entity-recognition": "token-classification", "multi-class-image-classification": "image-classification",
    "multi-label-image-classification": "image-classification", "llm/v1/completions": "text-generation",
    "image-object-detection": "object-detection", "image-instance-segmentation": "image-segmentation",
    "image-to-text-generation": "image-to-text",
}  # fmt: skip
# Names of transformers' tables of classes, each with its task; the first that has the class counts.
_TABLES = (
    ("AUDIO_CLASSIFICATION", "audio-classification"),  # before texts': some classes are called the same
    ("SEQUENCE_CLASSIFICATION", "text-classification"),
    ("TOKEN_CLASSIFICATION", "token-classification"),
    ("QUESTION_ANSWERING", "question-answering"),
    ("MASKED_LM", "fill-mask"),
    ("SEQ_TO_SEQ_CAUSAL_LM", "text2text-generation"),
    ("CAUSAL_LM", "text-generation"),
    ("IMAGE_CLASSIFICATION", "image-classification"),
    ("OBJECT_DETECTION", "object-detection"),
    ("IMAGE_SEGMENTATION", "image-segmentation"),
    ("SEMANTIC_SEGMENTATION", "image-segmentation"),
    ("INSTANCE_SEGMENTATION", "image-segmentation"),
    ("UNIVERSAL_SEGMENTATION", "image-segmentation"),
    ("DEPTH_ESTIMATION", "depth-estimation"),
    ("ZERO_SHOT_IMAGE_CLASSIFICATION", "zero-shot-image-classification"),
    ("CTC", "automatic-speech-recognition"),
    ("SPEECH_SEQ_2_SEQ", "automatic-speech-recognition"),
)
_TRANSLATORS = ("MarianMTModel", "M2M100ForConditionalGeneration", "NllbMoeForConditionalGeneration")
_CAPTIONS = ("VisionEncoderDecoderModel", "BlipForConditionalGeneration", "GitForCausalLM")


def named(task: str, by: str) -> str:
    """A task by the name that somebody gave it. Raises `InvalidSetting`."""
    if task.startswith("translation_"):
        return "translation"
    found = ALIASES.get(task, task)
    if found not in BY_TASK and found != TENSORS:
        raise InvalidSetting(f"{by} is {task!r}; there is {', '.join((*BY_TASK, TENSORS))}")
    return found


def known(task: str) -> str | None:
    """A task by the name that a file gives it; None for one that is not known here, or is no task of texts and
    pictures."""
    try:
        found = named(task, "MLmodel")
    except InvalidSetting:
        return None
    return None if found == TENSORS else found


def of_class(name: str, *, embeds: bool, ranks: bool, reads: bool) -> str | None:
    """The task of a class of transformers. `embeds`: it is what sentence-transformers put its pooling behind; `ranks`:
    it is a cross-encoder; `reads`: there is a tokenizer beside it."""
    from transformers.models.auto import modeling_auto

    if embeds:
        return "sentence-embeddings"
    if name in _CAPTIONS:
        return "image-to-text"
    if name in _TRANSLATORS:
        return "translation"
    if name.endswith("ForSequenceClassification") and ranks:
        return "text-ranking"
    for table, task in _TABLES:
        classes = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES", {}).values()
        if any(name in each if isinstance(each, tuple) else name == each for each in classes):
            return task
    plain = getattr(modeling_auto, "MODEL_MAPPING_NAMES", {}).values()
    return "feature-extraction" if reads and name in plain else None
