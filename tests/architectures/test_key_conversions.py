"""What transformers saves under other names than its modules have loads as transformers loads it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from score.errors import LoadError
from score.inference import pipeline
from score.settings import Settings
from tests.architectures.transformers_models import built, compare_state, saved

pytest.importorskip("transformers")


def _compare(folder: Path, wanted: nn.Module) -> None:
    compare_state(pipeline.load_model(Settings.load(folder, device="cpu")).module, wanted)


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("BertModel", {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}),
        (
            "Wav2Vec2Model",
            {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"},
        ),
    ],
)
def test_old_names_of_normalisation_and_of_weight_norm(name: str, old: dict[str, str], tmp_path: Path) -> None:
    wanted = saved(built(name), tmp_path)
    state = dict(wanted.state_dict())
    for new, before in old.items():
        state = {key.replace(new, before): value for key, value in state.items()}
        assert any(key.endswith(before) for key in state)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    _compare(tmp_path, wanted)


def test_a_conversion_fills_nothing_in(tmp_path: Path) -> None:
    wanted = saved(built("MixtralModel"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    wanted.save_pretrained(tmp_path, safe_serialization=True)
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if "experts.1." in name or "experts" in name)
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(tmp_path, device="cpu"))
