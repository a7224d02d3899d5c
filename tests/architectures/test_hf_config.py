"""What a folder's config.json names: remote code, which runs only where it is trusted, and models too large to copy."""

import json
import resource
from pathlib import Path

import pytest
import torch

from score.errors import ArchitectureBroken, UntrustedCode
from score.inference import pipeline, remedies
from score.settings import Settings
from score.weights.hashing import sha256
from tests.architectures.transformers_models import built, saved

transformers = pytest.importorskip("transformers")

_CONFIGURATION = """
from transformers import PretrainedConfig

class OwnConfig(PretrainedConfig):
    model_type = "own"

    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)
"""
_MODEL = """
from pathlib import Path
import torch
from transformers import PreTrainedModel
from .configuration_own import OwnConfig

Path(__file__).with_name("it_ran").touch()

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.fc = torch.nn.Linear(config.width, 2)
        self.post_init()

    def forward(self, x):
        return self.fc(x)
"""


def _remote(folder: Path, reference: str = "modeling_own.OwnModel") -> Path:
    folder.mkdir()
    (folder / "configuration_own.py").write_text(_CONFIGURATION)
    (folder / "modeling_own.py").write_text(_MODEL)
    named = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": reference}
    config = {"model_type": "own", "architectures": ["OwnModel"], "width": 4, "auto_map": named}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"fc.weight": torch.ones(2, 4), "fc.bias": torch.zeros(2)}, folder / "pytorch_model.bin")
    return folder


def test_remote_code_is_named_and_does_not_run(tmp_path: Path) -> None:
    folder = _remote(tmp_path / "own")
    with pytest.raises(UntrustedCode) as raised:
        pipeline.load_model(Settings.load(folder, device="cpu"))
    assert "modeling_own.OwnModel" in raised.value.message
    assert "modeling_own.py" in raised.value.detail
    assert not list(tmp_path.rglob("it_ran"))
    assert remedies.find(raised.value, Settings.load(folder, device="cpu")) == {"trust": str(folder)}
    assert not list(tmp_path.rglob("it_ran"))


@pytest.mark.usefixtures("modules_cache")
def test_remote_code_that_is_trusted_runs(tmp_path: Path) -> None:
    folder = _remote(tmp_path / "own")
    settings = Settings.load(folder, device="cpu", trust_sha256=sha256(folder))
    predictor = pipeline.load_model(settings)
    assert predictor.report.architecture == "modeling_own.OwnModel"
    assert predictor.module(torch.ones(1, 4)).tolist() == [[4.0, 4.0]]


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers copies remote code to."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.mark.parametrize("reference", ["someone/elsewhere--modeling_own.OwnModel", "modeling_other.OwnModel"])
def test_remote_code_that_is_not_in_the_folder_is_not_fetched(tmp_path: Path, reference: str) -> None:
    folder = _remote(tmp_path / "own", reference)
    with pytest.raises(ArchitectureBroken, match="is not in the folder"):
        pipeline.load_model(Settings.load(folder, device="cpu", trust_code=True))


def test_positions_that_marian_computes_and_does_not_save(tmp_path: Path) -> None:
    wanted = saved(built("MarianMTModel").to(torch.bfloat16), tmp_path)
    predictor = pipeline.load_model(Settings.load(tmp_path, device="cpu"))
    positions = predictor.module.state_dict()["model.encoder.embed_positions.weight"]
    assert torch.equal(positions, wanted.state_dict()["model.encoder.embed_positions.weight"])
    assert positions.dtype == torch.bfloat16


def test_a_model_of_seven_billion_parameters_in_bfloat16_is_mapped(tmp_path: Path) -> None:
    """Its file holds zeros that take no disk; it counts what is loaded and in which memory."""
    config = transformers.LlamaConfig(architectures=["LlamaForCausalLM"], dtype="bfloat16")
    with torch.device("meta"):
        state = transformers.LlamaForCausalLM(config).state_dict()
    header, end = {}, 0
    for name, value in state.items():
        start, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    config.save_pretrained(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limits[1], limits[1]))  # commands that ran before leave a lower one
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predictor = pipeline.load_model(Settings.load(tmp_path, device="cpu", read="mmap"))
    resource.setrlimit(resource.RLIMIT_DATA, limits)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    assert predictor.report.parameters == pytest.approx(6.74e9, rel=0.01)
    assert {value.dtype for value in predictor.module.parameters()} == {torch.bfloat16}
    assert grown < 2, f"{grown:.1f} GB of memory for 13.5 GB that are mapped"
