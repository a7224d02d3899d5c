"""`score package`: a folder that is ready to be registered, for each way a model can find its class."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from models.digits_cnn import DigitsCNN
from models.simple_model import SimpleModel
from score.cli import deployment
from score.errors import ChecksumMismatch
from score.inference.pipeline import load_model
from score.settings import Settings
from score.weights import checksums
from tests.cli.test_commands import score

PLAIN = """
from torch import nn


class Plain(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, x):
        return self.layer(x)
"""


def packaged(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Path:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = score("package", source, "-o", output)
    assert done.exit_code == 0, done.output
    for name in variables:
        monkeypatch.delenv(name)
    assert checksums.verify(output / "model", output) >= 2
    return output


def same_answers(source: Path, output: Path, **variables: str) -> None:
    """The package answers its own sample request as the original does."""
    sent = json.loads((output / "request.json").read_bytes())["data"]
    before, after = load_model(Settings.load(source, **variables)), load_model(Settings.load(output / "model"))
    name = after.signature.inputs[0].name
    inputs = {name: torch.tensor(sent)}
    np.testing.assert_allclose(after.predict(inputs), before.predict(inputs), rtol=1e-5)


def test_weights_become_safetensors_with_the_class_they_were_recognised_as(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = packaged(digits_folder / "torch-zip-lightning", tmp_path / "out", monkeypatch)
    written = sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file())
    assert written == [
        "deployment.yml", "model/SHA256SUMS", "model/model.safetensors", "model/score.toml", "request.json",
    ]  # fmt: skip
    toml = tomllib.loads((output / "model" / "score.toml").read_text())
    assert toml == {"labels": list("0123456789"), "architecture": "DigitsCNN", "inputs": "float32[N, 1, 8, 8]"}
    same_answers(digits_folder / "torch-zip-lightning", output)


@pytest.mark.parametrize("name", ["torchscript", "torch-export"])
def test_a_program_is_packaged_as_it_is(
    name: str, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = packaged(digits_folder / name, tmp_path / "out", monkeypatch)
    (original,) = (digits_folder / name).iterdir()
    assert (output / "model" / original.name).read_bytes() == original.read_bytes()
    same_answers(digits_folder / name, output)


def test_what_was_tuned_goes_along_and_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from score.inference.tuning import tuned_file

    for name in ("timing.MEASURED", "trial.COMPARED"):
        monkeypatch.setattr(f"score.inference.tuning.{name}", 0.02)
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    done = score("tune", tmp_path / "model.pt", "--only", "bf16-autocast", "--tolerance", "0.5", "--max-batch", "4")
    assert done.exit_code == 0, done.output
    output = packaged(tmp_path / "model.pt", tmp_path / "out", monkeypatch)
    assert (output / "model" / "model.safetensors.tuned" / tuned_file.NAME).is_file()
    served = load_model(Settings.load(output / "model"))
    assert served.running.source == "tuned.json" and served.report.format == "safetensors"
    same_answers(tmp_path / "model.pt", output)


def test_a_pickled_module_of_torchs_layers_keeps_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"best": nn.Sequential(nn.Linear(4, 2), nn.Tanh()), "last": nn.Linear(4, 3)}, tmp_path / "m.pt")
    output = packaged(tmp_path / "m.pt", tmp_path / "out", monkeypatch, SCORE_WEIGHTS="best")
    assert tomllib.loads((output / "model" / "score.toml").read_text())["weights"] == "best"
    same_answers(tmp_path / "m.pt", output, weights="best")


def test_a_class_outside_the_registry_is_named_by_the_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "in"
    model.mkdir()
    (model / "plain.py").write_text(PLAIN)
    torch.save({"layer.weight": torch.ones(2, 3), "layer.bias": torch.zeros(2)}, model / "weights.pt")
    variables = {"SCORE_ARCHITECTURE": f"{model}/plain.py:Plain", "SCORE_ARCHITECTURE_KWARGS": '{"width": 2}'}
    output = packaged(model, tmp_path / "out", monkeypatch, SCORE_MAX_BATCH="8", **variables)
    given = yaml.safe_load((output / "deployment.yml").read_text())["environment_variables"]
    assert given["SCORE_ARCHITECTURE"] == "plain.py:Plain"
    assert given["SCORE_MAX_BATCH"] == "8"
    assert "SCORE_ARCHITECTURE_KWARGS" not in given  # score.toml has them
    monkeypatch.setenv("SCORE_ARCHITECTURE", given["SCORE_ARCHITECTURE"])
    (output / "kept").mkdir()
    (output / "model").rename(output / "kept" / "model")  # as Azure ML keeps a registered folder's name
    served = load_model(Settings.load(output / "kept"))
    assert served.predict({"x": torch.ones(1, 3)}).tolist() == [[3.0, 3.0]]


def test_it_is_the_same_under_the_name_that_azure_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {
        "0.weight": torch.ones(3, 4),
        "0.bias": torch.zeros(3),
        "2.weight": torch.ones(2, 3),
        "2.bias": torch.zeros(2),
    }
    torch.save(weights, tmp_path / "m.pt")
    kwargs = '{"activation": "relu", "output": "identity"}'
    output = packaged(tmp_path / "m.pt", tmp_path / "out", monkeypatch, SCORE_ARCHITECTURE_KWARGS=kwargs)
    (tmp_path / "azureml-models").mkdir()
    (output / "model").rename(tmp_path / "azureml-models" / "model")  # <name>/<version>/model
    served = load_model(Settings.load(tmp_path / "azureml-models"))
    assert served.report.architecture == "MLP"
    assert served.predict({"x": torch.ones(1, 4)}).tolist() == [[12.0, 12.0]]
    with (tmp_path / "azureml-models" / "model" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ChecksumMismatch):
        load_model(Settings.load(tmp_path / "azureml-models"))


def test_the_deployment_is_filled_in(digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = score(
        "package", digits_folder / "torch-zip", "-o", tmp_path / "out",
        "--endpoint", "my-digits", "--image", "mine.azurecr.io/loadstone:1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = yaml.safe_load((tmp_path / "out" / "deployment.yml").read_text())
    assert document["endpoint_name"] == "my-digits"
    assert document["model"] == {"name": "torch-zip", "path": "model"}
    assert document["environment"]["image"] == "mine.azurecr.io/loadstone:1"
    assert document["environment"]["name"] == "loadstone-cpu"  # the other names are left alone


def test_what_is_there_is_not_written_over(digits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = score("package", digits_folder / "torch-zip", "-o", tmp_path)
    assert done.exit_code == 2
    assert "not an empty folder" in done.output


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("My Model_v2.pt", "My-Model-v2-pt"),
        ("7b", "model-7b"),
        ("ab", "model-ab"),
        ("x" * 50, "x" * 32),
        ("-a-b-", "a-b"),
    ],
)
def test_names_are_such_as_azure_takes(path: str, name: str) -> None:
    assert deployment.model_name(Path(path)) == name


def test_labels_and_the_images_recipe_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    torch.save(SimpleModel().state_dict(), tmp_path / "in" / "m.pt")
    (tmp_path / "in" / "labels.txt").write_text('a "b"\nc, d\n')
    recipe = '{"mean": [0.0], "std": [1.0], "resize": [2, 5]}'
    output = packaged(tmp_path / "in", tmp_path / "out", monkeypatch, SCORE_IMAGE=recipe)
    before, after = (
        load_model(Settings.load(tmp_path / "in", image=json.loads(recipe))),
        load_model(Settings.load(output / "model")),
    )
    assert after.task.labels == before.task.labels == ('a "b"', "c, d")
    assert after.task.recipe == before.task.recipe
    assert not {"SCORE_LABELS", "SCORE_IMAGE"} & set(
        yaml.safe_load((output / "deployment.yml").read_text())["environment_variables"]
    )


def test_weights_that_share_memory_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DigitsCNN()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    output = packaged(tmp_path / "m.pt", tmp_path / "out", monkeypatch)
    assert (output / "model" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    same_answers(tmp_path / "m.pt", output)


def test_a_trusted_file_beside_the_checkpoint_goes_along(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "own.py").write_text(
        "import torch\n\nclass Own(torch.nn.Module):\n    def __init__(self, size=3):\n        super().__init__()\n"
        "        self.fc = torch.nn.Linear(4, size)\n\n    def forward(self, x):\n        return self.fc(x)\n"
    )
    torch.save({"fc.weight": torch.ones(5, 4), "fc.bias": torch.zeros(5)}, tmp_path / "in" / "model.pt")
    options = ["--trust", str(tmp_path / "in" / "own.py"), "--kwargs", "size=5", "--inputs", "float32[N, 4]"]
    done = score("package", tmp_path / "in" / "model.pt", "-o", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model" / "own.py").is_file()
    assert 'SCORE_ARCHITECTURE: "own.py:Own"' in (tmp_path / "out" / "deployment.yml").read_text()
    again = score("check", tmp_path / "out" / "model", "--architecture", "own.py:Own")
    assert again.exit_code == 0, again.output
