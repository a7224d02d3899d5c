"""Graphs of ONNX and OpenVINO in folders of transformers answer as the weights that they were made of."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import InvalidSetting, LoadError, MalformedFile, NoWeights, UnsupportedFormat
from score.inference import pipeline
from score.inference.predictor import Predictor
from score.settings import Settings
from tests.inference.tasks import tiny


class Outputs(nn.Module):
    """A model's tensors, one after the other."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self.names, inputs, strict=True)))
        return tuple(value for value in found.values() if isinstance(value, torch.Tensor))


def to_onnx(folder: Path, name: str = "model.onnx") -> Path:
    """The weights of a folder as an ONNX graph in their place, with inputs and outputs named as Optimum does."""
    import transformers

    said = json.loads((folder / "config.json").read_text())
    cls = getattr(transformers, said["architectures"][0])
    model = cls.from_pretrained(folder, attn_implementation="eager").eval()
    if model.main_input_name == "pixel_values":
        side = model.config.image_size
        given = {"pixel_values": torch.rand(1, 3, side, side)}
    else:
        words = {"input_ids": torch.int64, "attention_mask": torch.int64, "token_type_ids": torch.int64}
        given = {each: torch.ones(1, 8, dtype=dtype) for each, dtype in words.items()}
        given = given if said["model_type"] == "bert" else {"input_ids": given["input_ids"]}
    names = list(given)
    with torch.no_grad():
        outputs = [each for each, value in model(**given).items() if isinstance(value, torch.Tensor)]
    free = {each: {0: "rows"} if given.keys() == {"pixel_values"} else {0: "rows", 1: "words"} for each in names}
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Outputs(model, names), tuple(given.values()), str(path), input_names=names, output_names=outputs,
            dynamic_axes=free | {each: {0: "rows"} for each in outputs}, dynamo=False, opset_version=17,
        )  # fmt: skip
    (folder / "model.safetensors").unlink()
    return path


def to_openvino(folder: Path) -> Path:
    import openvino

    graph = to_onnx(folder)
    made = folder / "openvino_model.xml"
    openvino.save_model(openvino.convert_model(graph), made, compress_to_fp16=False)
    graph.unlink()
    return made


def served(folder: Path, **settings: Any) -> Predictor:
    return pipeline.load_model(Settings.load(folder, **settings))


def answer(predictor: Predictor) -> Any:
    assert predictor.runner is not None and predictor.problem is None
    return predictor.runner(predictor.runner.made_up(), {})[0]


def close(found: Any, wanted: Any) -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            close(found[name], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)
    else:
        assert found == pytest.approx(wanted, abs=1e-4) if isinstance(wanted, float) else found == wanted


TASKS = (
    "text-classification",
    "token-classification",
    "question-answering",
    "feature-extraction",
    "image-classification",
)


@pytest.mark.parametrize(
    ("task", "export"),
    [
        *((task, to_onnx) for task in TASKS),
        (TASKS[0], to_openvino),
        *(pytest.param(task, to_openvino, marks=pytest.mark.slow) for task in TASKS[1:]),
    ],
)
def test_a_graph_answers_as_its_weights(tmp_path: Path, task: str, export: Callable[[Path], Path]) -> None:
    folder = tiny.made(task, tmp_path / "model")
    wanted = answer(served(folder))
    export(folder)
    found = served(folder)
    assert found.report.format == "hf-dir" and found.report.architecture.startswith("transformers.")
    close(answer(found), wanted)


def test_texts_of_different_lengths_share_a_pass(tmp_path: Path) -> None:
    folder = tiny.made("text-classification", tmp_path / "model")
    to_onnx(folder)
    found = served(folder)
    found.warm_up()
    assert found.runner is not None and found.runner.card()["padding"]
    texts = ["a fine day", "paris is in france where anna lives", "bad"]
    together, took = found.runner(pipeline.prepare(found, *_decoded(found, texts)).items, {})  # type: ignore[arg-type]
    alone = [found.runner(pipeline.prepare(found, *_decoded(found, [text])).items, {})[0][0] for text in texts]  # type: ignore[arg-type]
    close(together, alone)
    assert took.rows >= len(texts)


def _decoded(predictor: Predictor, texts: list[str]) -> Any:
    from score.codecs import registry
    from score.codecs.base import Body

    body = Body(json.dumps({"inputs": texts}).encode())
    codec = registry.choose(body)
    return codec, pipeline.decode(predictor, codec, body)


def test_another_graph_of_the_folder_is_named(tmp_path: Path) -> None:
    folder = tiny.made("text-classification", tmp_path / "model")
    wanted = answer(served(folder))
    to_onnx(folder, "onnx/model.onnx")
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_other.onnx")
    close(answer(served(folder)), wanted)
    named = served(folder, checkpoint="onnx/model_other.onnx")
    assert named.report.format == "onnx"
    close(answer(named), wanted)


def test_a_graph_that_would_have_to_generate_takes_tensors(tmp_path: Path) -> None:
    folder = tiny.made("text-generation", tmp_path / "model")
    to_onnx(folder)
    found = served(folder)
    assert found.runner is None
    assert found(b'{"inputs": {"input_ids": [[1, 2, 3]]}}')["logits"].shape[:2] == (1, 3)
    with pytest.raises(InvalidSetting, match="generates nothing"):
        assert served(folder, task="text-generation").runner


def test_a_folder_of_graphs_that_follow_each_other_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}')
    for name in ("encoder_model.onnx", "decoder_model.onnx"):
        (tmp_path / name).write_bytes(b"graph")
    with pytest.raises(NoWeights, match="ONNX"):
        served(tmp_path)


# OpenVINO's own files


def graph(folder: Path, layers: str, constants: bytes = bytes(64)) -> Path:
    (folder / "graph.xml").write_text(
        f'<?xml version="1.0"?><net name="n" version="11"><layers>{layers}</layers></net>'
    )
    (folder / "graph.bin").write_bytes(constants)
    return folder / "graph.xml"


CONSTANT = (
    '<layer id="0" name="w" type="Const" version="opset1">'
    '<data element_type="{kind}" shape="{shape}" offset="{offset}" size="{size}"/></layer>'
)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"kind": "f32", "shape": "4", "offset": "60", "size": "16"}, "graph.bin"),
        ({"kind": "f32", "shape": "3", "offset": "0", "size": "16"}, "can't take"),
        ({"kind": "f32", "shape": "-1, -4", "offset": "0", "size": "16"}, "can't take"),
        ({"kind": "f32", "shape": "a", "offset": "0", "size": "16"}, "not described"),
        ({"kind": "f32", "shape": "4", "offset": "-4", "size": "16"}, "graph.bin"),
    ],
)
def test_a_constant_that_lies_is_refused(tmp_path: Path, said: dict[str, str], error: str) -> None:
    import score

    path = graph(tmp_path, CONSTANT.format(**said))
    with pytest.raises(LoadError, match=error):
        score.open_weights(path)


def test_entities_are_refused(tmp_path: Path) -> None:
    import score

    path = graph(tmp_path, "")
    path.write_text('<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "aaaa">]><net >&a;</net>')
    with pytest.raises(MalformedFile, match="document type"):
        score.open_weights(path)


def test_a_graph_that_keeps_state_is_refused(tmp_path: Path) -> None:
    path = graph(tmp_path, '<layer id="0" name="s" type="ReadValue" version="opset6"><data/></layer>')
    with pytest.raises(UnsupportedFormat, match="keeps state"):
        served(path)


def test_an_extension_needs_trust(tmp_path: Path) -> None:
    from score.errors import UntrustedCode

    path = graph(tmp_path, '<layer id="0" name="s" type="Mine" version="extension"><data/></layer>')
    with pytest.raises(UntrustedCode) as raised:
        served(path)
    assert "extension.Mine" in raised.value.detail


def test_without_its_constants_it_has_no_weights(tmp_path: Path) -> None:
    path = graph(tmp_path, "")
    (tmp_path / "graph.bin").unlink()
    with pytest.raises(NoWeights, match=r"graph\.bin"):
        served(path)
