"""What transformers saves under other names than its modules have loads as transformers loads it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from score.errors import LoadError
from score.inference import pipeline
from score.settings import Settings
from tests.architectures.transformers_models import SAMPLE, built, model_types, saved

pytest.importorskip("transformers")


def _compare(folder: Path, wanted: nn.Module) -> Any:
    module = pipeline.load_model(Settings.load(folder, device="cpu")).module
    ours, theirs = module.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(torch.nan_to_num(ours[name].float()), torch.nan_to_num(value.float())), name
    buffers = dict(module.named_buffers())
    for name, value in wanted.named_buffers():  # those too that are not saved
        torch.testing.assert_close(buffers[name], value, equal_nan=True)
    return module


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_model_of_transformers(model_type: str, tmp_path: Path) -> None:
    module = built(model_type)
    wanted = saved(module, tmp_path)
    ours = _compare(tmp_path, wanted)
    name = wanted.main_input_name
    if name == "input_ids" and not wanted.config.is_encoder_decoder:
        given = {name: torch.arange(3, 19).reshape(2, 8)}
    elif name == "pixel_values" and isinstance(getattr(wanted.config, "image_size", None), int):
        side = wanted.config.image_size
        given = {name: torch.rand(2, getattr(wanted.config, "num_channels", 3), side, side)}
    else:
        return
    try:
        with torch.no_grad():
            expected = wanted(**given)[0]
    except Exception as error:  # noqa: BLE001  # it needs more inputs than one
        pytest.skip(f"equal in state; needs more than {name}: {str(error)[:80]}")
    with torch.no_grad():
        torch.testing.assert_close(ours(**given)[0], expected, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", model_types())
def test_every_model_of_transformers(model_type: str, tmp_path: Path) -> None:
    _compare(tmp_path, saved(built(model_type), tmp_path))


@pytest.mark.parametrize(
    ("model_type", "old"),
    [
        ("bert", {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}),
        (
            "wav2vec2",
            {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"},
        ),
    ],
)
def test_old_names_of_normalisation_and_of_weight_norm(model_type: str, old: dict[str, str], tmp_path: Path) -> None:
    wanted = saved(built(model_type), tmp_path)
    state = dict(wanted.state_dict())
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
        assert any(key.endswith(name) for key in state)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    _compare(tmp_path, wanted)


def test_a_conversion_fills_nothing_in(tmp_path: Path) -> None:
    wanted = saved(built("mixtral"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    wanted.save_pretrained(tmp_path, safe_serialization=True)
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name in state if "experts.1." in name or "experts" in name)
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(LoadError):
        pipeline.load_model(Settings.load(tmp_path, device="cpu"))
