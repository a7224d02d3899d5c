"""Weights of toolkits whose configuration would run code are named for what they are, with the way out."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import score
from score.errors import ArchitectureNeeded, SeveralCheckpoints

STATE = {"blocks.0.conv.weight": torch.zeros(7, 5, 3), "blocks.0.conv.bias": torch.zeros(7), "odd": torch.zeros(2, 2)}
HYPERPARAMS = """# Pretrained by somebody
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: [1024, 1024, 3072]
    attention_channels: 128  # as in the paper
    lin_neurons: 192

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: !ref <emb_dim>
    out_neurons: 7205
"""


def refused(folder: Path) -> ArchitectureNeeded:
    with pytest.raises(ArchitectureNeeded) as raised:
        score.load(folder)
    return raised.value


def test_speechbrain(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.yaml").write_text(HYPERPARAMS)
    torch.save(STATE, tmp_path / "embedding_model.ckpt")
    error = refused(tmp_path)
    assert "SpeechBrain" in error.message and "ECAPA_TDNN" in error.message
    wanted = "--checkpoint embedding_model.ckpt --architecture speechbrain.lobes.models.ECAPA_TDNN:ECAPA_TDNN"
    assert wanted in error.hint
    assert '"channels": [1024, 1024, 3072], "attention_channels": 128, "lin_neurons": 192' in error.hint
    torch.save(STATE, tmp_path / "classifier.ckpt")
    with pytest.raises(SeveralCheckpoints, match=r"SpeechBrain .*classifier.ckpt is speechbrain"):
        score.load(tmp_path)
    with pytest.raises(ArchitectureNeeded) as raised:
        score.load(tmp_path, checkpoint="classifier.ckpt")
    assert ":Classifier" in raised.value.hint
    assert "--kwargs" not in raised.value.hint  # which are said by reference


def test_espnet(tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text("espnet: 202301\nfiles:\n  asr_model_file: valid.acc.ave.pth\n")
    (tmp_path / "config.yaml").write_text("token_list:\n- <blank>\nfrontend: default\nencoder: conformer\n")
    torch.save(OrderedDict(STATE), tmp_path / "valid.acc.ave.pth")
    error = refused(tmp_path)
    assert "ESPnet" in error.message and "encoder: conformer" in error.message
    assert "espnet_onnx" in error.hint


def test_nemo(tmp_path: Path) -> None:
    target = "nemo.collections.asr.models.ctc_models.EncDecCTCModel"
    (tmp_path / "model_config.yaml").write_text(f"sample_rate: 16000\ntarget: {target}\n")
    torch.save(STATE, tmp_path / "model_weights.ckpt")
    error = refused(tmp_path)
    assert target in error.message and "model.export" in error.hint


@pytest.mark.parametrize(
    ("beside", "name", "way_out"),
    [
        ({"__author__": "Detectron2 Model Zoo", "matching_heuristics": True}, "Detectron2", "TorchScript"),
        ({"meta": {"mmdet_version": "3.3.0", "epoch": 12}}, "OpenMMLab", "MMDeploy"),
        ({"cfg": {"model": {"_name": "wav2vec2"}, "criterion": {"_name": "ctc"}}}, "fairseq", "transformers"),
    ],
)
def test_what_a_checkpoint_says_of_itself(tmp_path: Path, beside: dict[str, Any], name: str, way_out: str) -> None:
    torch.save({"model": STATE, **beside}, tmp_path / "model.pth")
    error = refused(tmp_path)
    assert name in error.message and way_out in error.hint


def test_a_configuration_of_nobody_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("frontend: default\n")
    (tmp_path / "hyperparams.yaml").write_text("lr: 0.1\n")
    torch.save({"state": STATE, "meta": {"version": 1}, "args": {"arch": "mine"}}, tmp_path / "model.pth")
    assert "architecture fits them" in refused(tmp_path).message
    assert refused(tmp_path).message.endswith("fits them")


def test_a_configuration_can_not_steer_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text("espnet: 1\n")
    (tmp_path / "config.yaml").write_text("token_list:\nencoder: a\x1b[2J\n")
    torch.save(STATE, tmp_path / "model.pth")
    assert "\x1b" not in refused(tmp_path).message + refused(tmp_path).hint
