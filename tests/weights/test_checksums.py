"""SHA256SUMS beside a checkpoint: checked before the files are read, in coreutils' format."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from models.simple_model import SimpleModel
from score.architectures import resolve
from score.errors import ChecksumMismatch, MalformedFile
from score.inference.pipeline import load_model
from score.settings import Settings
from score.weights import checksums, hashing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text("two  spaces\n")
    checksums.write(tmp_path, [tmp_path / "model.pt", tmp_path / "sub" / "notes.txt"])
    return tmp_path


def test_what_is_written_is_what_coreutils_checks(folder: Path) -> None:
    if not shutil.which("sha256sum"):
        pytest.skip("no coreutils here")
    subprocess.run(["sha256sum", "--check", "--strict", checksums.NAME], cwd=folder, check=True, capture_output=True)
    written = subprocess.run(
        ["sha256sum", "--binary", "model.pt", "sub/notes.txt"], cwd=folder, capture_output=True, text=True, check=True
    )
    (folder / checksums.NAME).write_text(written.stdout)
    assert checksums.verify(folder / "model.pt", folder) == 2


def test_an_intact_folder_loads_and_a_folder_without_a_list_too(folder: Path) -> None:
    assert checksums.verify(folder / "model.pt", folder) == 2
    assert load_model(Settings.load(folder)).report.architecture == "SimpleModel"
    (folder / checksums.NAME).unlink()
    assert checksums.verify(folder / "model.pt", folder) == 0


def test_one_flipped_bit_is_named_before_anything_is_read(folder: Path) -> None:
    data = bytearray((folder / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.pt").write_bytes(data)
    with pytest.raises(ChecksumMismatch) as caught:
        load_model(Settings.load(folder))
    assert "1 of the 2 files" in caught.value.message
    assert "model.pt: expected" in caught.value.detail


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "sub" / "notes.txt").unlink()
    with pytest.raises(ChecksumMismatch) as caught:
        checksums.verify(folder / "model.pt", folder)
    assert caught.value.detail == "sub/notes.txt: missing"


@pytest.mark.parametrize(
    "line", ["0123  model.pt", "no digest at all", f"{'0' * 64}  ../outside", f"{'0' * 64}  /etc/passwd"]
)
def test_a_list_that_is_none_or_leaves_the_folder_is_refused(folder: Path, line: str) -> None:
    (folder / checksums.NAME).write_text(line + "\n")
    with pytest.raises(MalformedFile):
        checksums.verify(folder / "model.pt", folder)


def test_a_list_below_the_model_folder_counts_and_one_beside_the_way_does_not(folder: Path, tmp_path: Path) -> None:
    # Azure ML keeps the registered folder's own name below AZUREML_MODEL_DIR
    assert checksums.verify(folder / "model.pt", folder.parent) == 2
    (folder / "other").mkdir()
    (folder / "other" / checksums.NAME).write_text(f"{'0' * 64}  missing\n")
    with pytest.raises(ChecksumMismatch) as caught:
        checksums.verify(folder / "model.pt", folder)
    assert caught.value.detail == "other/SHA256SUMS: not listed"


@pytest.mark.parametrize("name", ["labels.txt", "preprocessor_config.json", ".hidden", "sub/vocab.txt"])
def test_a_file_that_is_not_listed_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("cat\ndog\n")
    with pytest.raises(ChecksumMismatch) as caught:
        load_model(Settings.load(folder))
    assert caught.value.detail == f"{name}: not listed"


def test_a_file_that_changes_while_it_is_loaded_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = resolve.find

    def finding(*args: Any) -> Any:
        with (folder / "model.pt").open("ab") as file:
            file.write(b"\0")
        return find(*args)

    monkeypatch.setattr(resolve, "find", finding)
    with pytest.raises(ChecksumMismatch, match="changed after its digest was taken"):
        load_model(Settings.load(folder))


def test_no_two_folders_have_one_digest(tmp_path: Path) -> None:
    """The lines of a list of names could be another folder's: `a\\nb` beside `a` and `b`."""
    made = []
    for at, names in enumerate((["a", "b"], ["a\n" + "b"], ["b", "a"], ["a", "b", "c"], ["ab"])):
        folder = tmp_path / str(at)
        folder.mkdir()
        for name in names:
            (folder / name).write_text(names[0])
        made.append(hashing.sha256(folder))
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "a").symlink_to("b")
    (tmp_path / "5" / "b").write_text("a")
    made.append(hashing.sha256(tmp_path / "5"))
    assert len(set(made)) == len(made)
