"""Folders of sentence-transformers, old and new: the embeddings that it gives itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score.codecs.base import Body, Decoded
from score.errors import ArchitectureBroken
from score.inference import pipeline
from score.settings import Settings
from tests.inference.preprocess.test_task import CACHE, minilm  # noqa: F401  # the fixture
from tests.inference.tasks import tiny

pytest.importorskip("transformers")

TEXTS = ["hello world", "A second, rather longer sentence; it pads the first.", "third"]
MAKE = """
import sys, json, torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm
torch.manual_seed(0)
norm = LayerNorm(384)
torch.nn.init.normal_(norm.norm.weight), torch.nn.init.normal_(norm.norm.bias)
base = SentenceTransformer(sys.argv[1], device="cpu")
transformer = base[0]
for name, parts in {
    "mean": [Pooling(384, "mean")], "cls": [Pooling(384, "cls")], "max": [Pooling(384, "max"), Normalize()],
    "last": [Pooling(384, "lasttoken")], "weighted": [Pooling(384, "weightedmean")],
    "root": [Pooling(384, "mean_sqrt_len_tokens")], "two": [Pooling(384, ("mean", "max"))],
    "norm": [Pooling(384, "mean"), norm],
    "dense": [Pooling(384, "mean"), Dense(384, 16), Normalize()],
    "relu": [Pooling(384, "mean"), Dense(384, 8, bias=False, activation_function=torch.nn.ReLU(), use_residual=True)],
}.items():
    model = SentenceTransformer(modules=[transformer, *parts], device="cpu")
    model.save(sys.argv[2] + "/" + name)
    print(json.dumps([name, model.encode(json.loads(sys.argv[3])).tolist()]))
"""


@pytest.fixture(scope="module")
def folders(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:  # noqa: F811
    made = tmp_path_factory.mktemp("sentences")
    env = {"PYTHONPATH": str(CACHE), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin", "HOME": str(made)}
    command = [sys.executable, "-c", MAKE, str(minilm), str(made), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {name: (made / name, wanted) for name, wanted in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "cls", "max", "last", "weighted", "root", "two", "norm", "dense", "relu"])
def test_each_pooling_and_what_follows_it(name: str, folders: dict[str, tuple[Path, Any]]) -> None:
    folder, wanted = folders[name]
    served = pipeline.load_model(Settings.load(folder, device="cpu"))
    answer = served.predict(served.preprocess(Decoded(np.array(TEXTS), "inputs")))
    np.testing.assert_allclose(answer, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_module_that_is_not_known_is_no_embedding_of_another_kind(folders: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(folders["mean"][0], folder)
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*listed, {"idx": 2, "path": "2_LSTM", "type": "x.models.LSTM"}]))
    with pytest.raises(ArchitectureBroken, match="LSTM"):
        pipeline.load_model(Settings.load(folder))


RANK = """
import sys, json, torch
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1], device="cpu")
model.save_pretrained(sys.argv[2])
query, texts = json.loads(sys.argv[3])
print(json.dumps(model.predict([(query, text) for text in texts]).tolist()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
def test_a_cross_encoder_ranks_as_its_package_does(activation: str | None, tmp_path: Path) -> None:
    folder, saved = tiny.ranking(tmp_path / "plain"), tmp_path / "saved"
    config = json.loads((folder / "config.json").read_text())
    del config["sentence_transformers"]
    if activation:
        config["sentence_transformers"] = {"activation_fn": activation, "version": "6.0"}
    (folder / "config.json").write_text(json.dumps(config))
    texts = [" ".join(tiny.WORDS[at : at + 3 + at % 5]) for at in range(20)]
    env = {"PYTHONPATH": str(CACHE), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    asked = json.dumps(["who wrote this", texts])
    command = [sys.executable, "-c", RANK, str(folder), str(saved), asked]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = json.loads(done.stdout.splitlines()[-1])
    served = pipeline.load_model(Settings.load(saved, device="cpu"))
    assert served.runner is not None
    assert served.runner.task == "text-ranking"
    served.warm_up()
    body = {"inputs": {"query": "who wrote this", "texts": texts}}
    answered = pipeline.infer(served, Body(json.dumps(body).encode()))
    found = {each["index"]: each["score"] for each in json.loads(answered.encoded.body)}
    assert [found[at] for at in range(20)] == pytest.approx(wanted, abs=1e-4)
    assert answered.took.batch_rows > 1
