"""MLflow folders of every torch-bearing flavor answer as the folder inside of them does: read without mlflow, and
without a pickle. What MLmodel says is as mlflow 3.17 wrote it for these models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from models.simple_model import SimpleModel
from score.cli.app import app
from score.codecs.base import Body
from score.errors import UnsupportedFormat, WrongShape
from score.formats import _mlflow_signature
from score.inference.pipeline import infer, load_model
from score.inference.predictor import Predictor
from score.server import openapi, startup
from score.settings import Settings
from tests.inference.tasks import tiny

pytest.importorskip("transformers")
_PYFUNC = """
  python_function:
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    python_version: 3.11.7
    loader_module: """
TRANSFORMERS = f"""flavors:{_PYFUNC}mlflow.transformers
  transformers:
    code: null
    components:
    - tokenizer
    instance_type: TextClassificationPipeline
    model_binary: model
    pipeline_model_type: BertForSequenceClassification
    task: text-classification
    tokenizer_type: TokenizersBackend
    torch_dtype: torch.float32
    transformers_version: 5.24.0
mlflow_version: 3.17.2
signature:
  inputs: '[{{"type": "string", "required": true}}]'
"""
HFTRANSFORMERS = f"""flavors:
  hftransformersv2:
    code: null
    hf_config_class: AutoConfig
    hf_pretrained_class: AutoModelForSequenceClassification
    hf_tokenizer_class: AutoTokenizer
    huggingface_id: tiny
    model_data: data
    pytorch_version: 2.13.0
    task_type: text-classification
    transformers_version: 5.24.0{_PYFUNC}azureml.evaluate.mlflow.hftransformers
    data: data
"""
SENTENCES = f"""flavors:{_PYFUNC}mlflow.sentence_transformers
    data: model.sentence_transformer
  sentence_transformers:
    code: null
    pipeline_model_type: BertModel
    sentence_transformers_version: 6.2.0
"""
PYTHON = f"""flavors:{_PYFUNC}mlflow.pyfunc.model
    artifacts:
      model:
        path: artifacts/tiny
        uri: tiny
    cloudpickle_version: 3.1.3
    python_model: python_model.pkl
"""


def _moved(source: Path, target: Path, *names: str) -> None:
    target.mkdir(parents=True)
    for name in names:
        shutil.copy(source / name, target / name)


def _transformers(source: Path, folder: Path) -> None:
    _moved(source, folder / "model", "config.json", "model.safetensors")
    _moved(source, folder / "components" / "tokenizer", "tokenizer.json", "tokenizer_config.json")
    (folder / "MLmodel").write_text(TRANSFORMERS)


def _hftransformers(source: Path, folder: Path) -> None:
    _moved(source, folder / "data" / "model", "model.safetensors")
    _moved(source, folder / "data" / "config", "config.json")
    _moved(source, folder / "data" / "tokenizer", "tokenizer.json", "tokenizer_config.json")
    (folder / "MLmodel").write_text(HFTRANSFORMERS)


def _first_hftransformers(source: Path, folder: Path) -> None:
    _hftransformers(source, folder)
    (folder / "MLmodel").write_text(HFTRANSFORMERS.replace("hftransformersv2:", "hftransformers:"))


def _python(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder / "artifacts" / "tiny")
    (folder / "python_model.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    (folder / "MLmodel").write_text(PYTHON)


FLAVORS: dict[str, Callable[[Path, Path], None]] = {
    "transformers": _transformers,
    "hftransformersv2": _hftransformers,
    "hftransformers": _first_hftransformers,
    "python_function": _python,
}


def predictor(folder: Path) -> Predictor:
    found = load_model(Settings.load(folder, device="cpu"))
    found.warm_up()
    return found


def ask(served: Predictor, document: Any) -> Any:
    return json.loads(infer(served, Body(json.dumps(document).encode())).encoded.body)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_flavor_answers_as_what_is_inside(flavor: str, tmp_path: Path) -> None:
    source = tiny.made("text-classification", tmp_path / "source")
    (tmp_path / "logged").mkdir()
    FLAVORS[flavor](source, tmp_path / "logged")
    served = predictor(tmp_path / "logged")
    assert served.report.format == "mlflow"
    assert served.runner is not None
    assert served.runner.task == "text-classification"
    assert served.runner.source == ("the model's class" if flavor == "python_function" else "MLmodel")
    asked = {"input_data": {"columns": ["text"], "index": [0, 1], "data": [["a fine day"], ["bad"]]}}
    wanted = predictor(source)(["a fine day", "bad"])
    assert ask(served, asked) == [{"label": each["label"], "score": pytest.approx(each["score"])} for each in wanted]


def test_sentence_transformers_in_an_mlflow_folder(tmp_path: Path) -> None:
    inner = tiny.sentences(tmp_path / "model.sentence_transformer")
    (tmp_path / "MLmodel").write_text(SENTENCES)
    served = predictor(tmp_path)
    assert served.runner is not None
    assert served.runner.task == "sentence-embeddings"
    found = ask(served, {"inputs": ["a fine day", "bad"]})
    assert found == [pytest.approx(each, abs=1e-5) for each in predictor(inner)(["a fine day", "bad"])]
    assert [len(each) for each in found] == [32, 32]


def test_a_python_model_without_a_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(f"flavors:{_PYFUNC}mlflow.sklearn\n")
    with pytest.raises(UnsupportedFormat, match=r"mlflow\.sklearn") as raised:
        load_model(Settings.load(tmp_path))
    assert "mlflow.transformers" in raised.value.hint


class Linear(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(x)
        return found


PYTORCH = f"""flavors:{_PYFUNC}mlflow.pytorch
    data: data
    pickle_module_name: mlflow.pytorch.pickle_module
  pytorch:
    code: null
    model_data: data
    pytorch_version: 2.13.0
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: ndarray
signature:
  inputs: '[{{"type": "tensor", "tensor-spec": {{"dtype": "float64", "shape": [-1, 4]}}}}]'
  outputs: '[{{"type": "tensor", "tensor-spec": {{"dtype": "float32", "shape": [-1, 3]}}}}]'
  params: null
"""
COLUMNS = '[{"type": "double", "name": "a", "required": true}, {"type": "long", "name": "b", "required": true}]'
_BINARY = """signature:
  inputs: '[{"type": "binary", "name": "image"}]'
"""
ROWS = [[0.25, 0.5, 0.75, 1.0], [1.0, 2.0, 3.0, 4.0]]


def pytorch_folder(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    torch.manual_seed(0)
    torch.jit.script(Linear()).save(str(folder / "data" / "model.pth"))
    (folder / "MLmodel").write_text(PYTORCH)
    (folder / "serving_input_example.json").write_text(json.dumps({"inputs": ROWS}))
    (folder / "input_example.json").write_text(json.dumps(ROWS))
    return folder


def test_the_signature_and_the_example_are_used(tmp_path: Path) -> None:
    served = predictor(pytorch_folder(tmp_path / "model"))
    assert served.signature.as_dict() == {"inputs": {"x": "float32[N, 4]"}, "source": "MLmodel", "guessed": False}
    assert served.card()["task"]["example"] == {"inputs": ROWS}
    described = openapi.description(served.signature, served.outputs, None, served.example())
    body = described["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"inputs": ROWS}
    assert json.dumps(ROWS, separators=(",", ":")) in startup.curl(served, "5001")
    with pytest.raises(WrongShape, match=r"float32\[N, 4\]"):
        ask(served, {"inputs": [[1.0, 2.0, 3.0]]})
    done = CliRunner().invoke(app, ["check", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "asked with the example that was recorded" in done.output
    assert len(ask(served, {"inputs": ROWS})["predictions"]) == 2


def test_an_example_that_the_model_refuses_is_said_by_check(tmp_path: Path) -> None:
    folder = pytorch_folder(tmp_path / "model")
    (folder / "serving_input_example.json").write_text('{"inputs": [[1.0, 2.0]]}')
    done = CliRunner().invoke(app, ["check", str(folder)])
    assert done.exit_code != 0
    assert "expected float32[N, 4]" in done.output


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        (COLUMNS, "float32[N, 2]"),
        ('[{"type": "string", "name": "text"}]', None),
        ('[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1, -1]}}]', "int64[?, ?]"),
        (
            '[{"name": "a", "type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [1]}},'
            ' {"name": "b", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]',
            {"a": "int64[1]", "b": "float32[?]"},
        ),
        ("not json", None),
        ('[{"type": "tensor"}]', None),
        ("[" * 2000, None),
    ],
)
def test_signatures_of_each_kind(inputs: str, wanted: Any) -> None:
    assert _mlflow_signature.takes({"signature": {"inputs": inputs}}) == wanted


@pytest.mark.parametrize(
    ("info", "text", "wanted"),
    [
        (
            {"type": "dataframe"},
            '{"columns": ["a"], "data": [[1]]}',
            {"dataframe_split": {"columns": ["a"], "data": [[1]]}},
        ),
        ({"type": "ndarray"}, '{"inputs": [[1]]}', {"inputs": [[1]]}),
        ({"type": "json_object"}, '["a fine day"]', {"inputs": ["a fine day"]}),
        ({"type": "ndarray"}, "not json", None),
    ],
)
def test_examples_of_older_versions(info: dict[str, str], text: str, wanted: Any, tmp_path: Path) -> None:
    (tmp_path / "input_example.json").write_text(text)
    document = {"saved_input_example_info": {**info, "artifact_path": "input_example.json"}}
    assert _mlflow_signature.example(tmp_path, document) == wanted
    outside = {"saved_input_example_info": {**info, "artifact_path": "../input_example.json"}}
    assert _mlflow_signature.example(tmp_path, outside) is None


def test_a_text_model_is_asked_with_its_recorded_example(tmp_path: Path) -> None:
    source = tiny.made("text-classification", tmp_path / "source")
    folder = tmp_path / "logged"
    folder.mkdir()
    _transformers(source, folder)
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text + "saved_input_example_info:\n  artifact_path: input_example.json\n")
    example = {"inputs": {"input_string": ["a fine day"]}, "parameters": {"top_k": 2}}
    (folder / "input_example.json").write_text(json.dumps(example))
    served = predictor(folder)
    assert served.example() == example
    done = CliRunner().invoke(app, ["check", str(folder)])
    assert done.exit_code == 0, done.output


def test_artifacts_that_are_a_folders_files(tmp_path: Path) -> None:
    """As a Python model that lists its files one by one, or its weights and their configuration."""
    source = tiny.made("text-classification", tmp_path / "source")
    shutil.copytree(source, tmp_path / "logged" / "artifacts")
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    listed = "".join(f"      {name}:\n        path: artifacts/{name}\n" for name in names)
    text = f"flavors:{_PYFUNC}mlflow.pyfunc.model\n    artifacts:\n{listed}    python_model: python_model.pkl\n"
    (tmp_path / "logged" / "MLmodel").write_text(text)
    served = predictor(tmp_path / "logged")
    assert served(["a fine day"])[0] == predictor(source)(["a fine day"])[0]


def test_the_artifacts_of_automl_for_images(tmp_path: Path) -> None:
    """Weights in a checkpoint of its own, and settings beside."""
    (tmp_path / "artifacts").mkdir()
    model = SimpleModel()
    saved = {"model_name": "simple", "number_of_classes": 2, "specs": {}, "model_state": model.state_dict()}
    torch.save(saved, tmp_path / "artifacts" / "model.pth")
    (tmp_path / "artifacts" / "settings.json").write_text("{}")
    listed = "      model:\n        path: artifacts/model.pth\n      settings:\n        path: artifacts/settings.json\n"
    text = f"flavors:{_PYFUNC}mlflow.pyfunc.model\n    artifacts:\n{listed}    python_model: python_model.pkl\n"
    (tmp_path / "MLmodel").write_text(text + _BINARY)
    served = predictor(tmp_path)
    assert served.report.weights_path == "model_state"
    assert served.report.metadata["not_run"] == "python_model.pkl"
    assert served.beside.takes is None


def test_automl_for_texts_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "_model_impl.pkl").write_bytes(b"cazureml.automl.dnn.nlp\nModel\n.")
    text = f"flavors:{_PYFUNC}azureml.automl.dnn.nlp\n    data: data/_model_impl.pkl\n"
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(UnsupportedFormat, match=r"azureml\.automl\.dnn\.nlp"):
        load_model(Settings.load(tmp_path))
