"""Files that were cut into parts for a size limit, as coreutils' `split` and others name them."""

import gzip
import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import torch

import score
from models.simple_model import SimpleModel
from score.errors import LoadError, MalformedFile
from score.formats import registry
from score.formats._io import parts
from score.settings import Settings
from score.weights import hashing
from score.weights.locate import find_checkpoint
from tests import makers

SCHEMES = {
    "model.pt.part{}": ["00", "01", "02", "03"],
    "model.pt.part-{}": ["0", "1", "2", "3"],
    "model.pt.{}": ["001", "002", "003", "004"],
    "model.pt-{}": ["aa", "ab", "ac", "ad"],
    "x{}": ["aa", "ab", "ac", "ad"],
    "model.pt.part{} ": ["1", "2", "3", "4"],
    "model_part_{}": ["a" * 3, "aab", "aac", "aad"],
}


def cut(content: bytes, folder: Path, scheme: str) -> list[Path]:
    """Content as four parts, the last one smaller."""
    size = -(-len(content) // 4)
    made = []
    for number, name in enumerate(SCHEMES[scheme]):
        path = folder / scheme.strip().format(name)
        path.write_bytes(content[number * size : (number + 1) * size])
        made.append(path)
    return made


@pytest.mark.parametrize("format", ["torch-zip", "torch-legacy", "safetensors", "npz", "gguf"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_checkpoint_in_parts_is_one(tmp_path: Path, scheme: str, format: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "model").mkdir()
    state = makers.MAKERS[format](tmp_path / "whole")
    (whole,) = (tmp_path / "whole").iterdir()
    made = cut(whole.read_bytes(), tmp_path / "model", scheme)
    found = find_checkpoint(Settings.load(tmp_path / "model"))
    assert found.path == made[0] and found.format == "archive"
    assert [registry.detect(path) for path in made] == ["archive", None, None, None]
    opened = score.open_weights(tmp_path / "model")
    assert set(opened) == set(state)
    assert all(torch.equal(opened[name], tensor) for name, tensor in state.items())
    assert hashing.sha256(made[0]) == hashlib.sha256(whole.read_bytes()).hexdigest()


def test_an_archive_in_parts_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "model").mkdir()
    state = SimpleModel().state_dict()
    torch.save(state, tmp_path / "whole" / "weights.pt")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "whole", "artifacts")
    cut((tmp_path / "model.tar.gz").read_bytes(), tmp_path / "model", "model.pt.part{}")
    assert torch.equal(score.open_weights(tmp_path / "model")["linear.weight"], state["linear.weight"])
    named = Settings.load(tmp_path / "model", checkpoint="model.pt.part00/artifacts/weights.pt")
    assert find_checkpoint(named).opened("auto").metadata["member"].endswith("artifacts/weights.pt")


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    makers.torch_zip(tmp_path)
    whole = tmp_path / "model.pt"
    made = cut(whole.read_bytes(), tmp_path, "model.pt.part{}")
    whole.unlink()
    made[2].unlink()
    with pytest.raises(MalformedFile, match=r"part01 and model\.pt\.part03"):
        score.open_weights(tmp_path)
    made[3].unlink()
    with pytest.raises(LoadError, match="part00"):
        score.open_weights(tmp_path)


def test_whole_files_with_numbers_are_no_parts(tmp_path: Path) -> None:
    for number in range(1, 4):
        torch.save(SimpleModel().state_dict(), tmp_path / f"epoch.{number:03}")
    assert {registry.detect(path) for path in tmp_path.iterdir()} == {"torch-zip"}
    assert parts.of(tmp_path / "epoch.001")  # by names and sizes alone, they could be
    with pytest.raises(LoadError, match="3 checkpoints"):
        score.open_weights(tmp_path)


def test_trust_and_checksums_go_by_all_parts(tmp_path: Path) -> None:
    content = gzip.compress(b"anything")
    made = cut(content, tmp_path, "model.pt.part{}")
    before = hashing.sha256(made[0])
    made[3].write_bytes(made[3].read_bytes()[:-1] + b"x")
    assert hashing.sha256(made[0]) != before


def test_inspect_counts_all_parts(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from score.cli.app import app

    makers.safetensors(tmp_path)
    whole = tmp_path / "model.safetensors"
    size = whole.stat().st_size
    cut(whole.read_bytes(), tmp_path, "model.pt.{}")
    whole.unlink()
    found = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path), "--json"]).stdout)
    assert (found["format"], found["bytes"]) == ("archive", size)
    assert found["metadata"]["inner_format"] == "safetensors"
