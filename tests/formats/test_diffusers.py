"""A pipeline of diffusers: each of its parts is a model by its folder's name."""

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers

import score
from score.errors import ArchitectureBroken, LoadError, SeveralCheckpoints
from score.inference import pipeline
from score.server import discovery
from score.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Stable Diffusion, as its save_pretrained writes it."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    words = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    place = tmp_path_factory.mktemp("pipeline") / "tiny"
    scheduler = diffusers.DDIMScheduler()
    for part, model in {"unet": unet, "vae": vae, "text_encoder": words, "scheduler": scheduler}.items():
        model.save_pretrained(place / part)
    (place / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "x"]}')
    return place


def test_the_pipeline_is_named_and_its_parts_are_choices(folder: Path) -> None:
    with pytest.raises(SeveralCheckpoints, match="the parts of a StableDiffusionPipeline") as caught:
        pipeline.load_model(Settings.load(folder))
    assert [choice["checkpoint"] for choice in caught.value.choices] == ["text_encoder", "unet", "vae"]
    assert set(discovery.chosen(Settings.load(folder))) == {"text_encoder", "unet", "vae"}


@torch.no_grad()
def test_each_part_computes_what_the_library_computes(folder: Path) -> None:
    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    sample, step, words = torch.randn(2, 4, 8, 8), torch.tensor(7), torch.randn(2, 5, 16)
    found = score.load(folder, checkpoint="unet")
    assert torch.equal(found(sample, step, words).sample, unet(sample, step, words).sample)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(score.load(folder, checkpoint="vae")(image).sample, vae(image).sample)
    tokens = torch.tensor([[0, 4, 5, 1]])
    text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    served = score.Predictor(folder, checkpoint="text_encoder", task="tensors")
    assert np.allclose(served({"input_ids": tokens.numpy()})["last_hidden_state"], text(tokens)[0], atol=1e-6)


@pytest.mark.parametrize("name", ["NoSuchModel", "StableDiffusionPipeline", "load_pipeline"])
def test_what_is_no_model_of_diffusers_is_not_built(folder: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(folder / "vae", tmp_path, dirs_exist_ok=True)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"AutoencoderKL"', f'"{name}"'))
    with pytest.raises(ArchitectureBroken, match=name):
        score.load(tmp_path)


def test_without_the_library_the_refusal_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    without = {"diffusers": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: without.get(name, True) and find(name, *rest))
    with pytest.raises(LoadError) as caught:
        score.load(folder, checkpoint="unet")
    assert "pip install diffusers" in caught.value.hint
