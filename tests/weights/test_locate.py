"""From AZUREML_MODEL_DIR to one checkpoint, in all the shapes that folders come in."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from score.errors import (
    ForeignFormat,
    LoadError,
    ModelDirEmpty,
    ModelDirMissing,
    ModelDirUnreadable,
    ModelDirUnset,
    NoCheckpoint,
    SeveralCheckpoints,
    TruncatedFile,
)
from score.formats import registry, search
from score.formats.registry import open_checkpoint
from score.formats.search import size, tree
from score.settings import Settings
from score.weights.locate import find_checkpoint
from tests import makers


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w": torch.ones(2)}, path)
    return path


@pytest.mark.parametrize(
    "place",
    ["model.pt", "model/model.pt", "INPUT_model/weights.bin", "a/b/c/d/deep", "my model/with space.ckpt", "v1.0/x"],
)
def test_it_is_found_at_any_depth(tmp_path: Path, place: str) -> None:
    path = save(tmp_path / place)
    found = find_checkpoint(Settings.load(tmp_path))
    assert (found.path, found.format) == (path, "torch-zip")


def test_the_setting_may_be_the_file_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt")
    save(tmp_path / "other.pt")
    assert find_checkpoint(Settings.load(path)).path == path


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model" / "model.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZUREML_MODEL_DIR", "model")
    assert find_checkpoint(Settings.load()).path == path


def test_what_is_plainly_no_checkpoint_is_skipped(tmp_path: Path) -> None:
    path = save(tmp_path / "project" / "weights")
    save(tmp_path / ".git" / "objects" / "pack")
    save(tmp_path / "__pycache__" / "x.pt")
    for name in ("README.md", "train.py", "config.json", "labels.txt", "logo.png", "notes"):
        (tmp_path / "project" / name).write_text("text")
    assert find_checkpoint(Settings.load(tmp_path)).path == path


def test_a_link_that_makes_a_loop_is_not_followed(tmp_path: Path) -> None:
    path = save(tmp_path / "a" / "model.pt")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert find_checkpoint(Settings.load(tmp_path)).path == path


def test_several_are_never_guessed_between(tmp_path: Path) -> None:
    save(tmp_path / "a.pt")
    save(tmp_path / "sub" / "b.pt")
    with pytest.raises(SeveralCheckpoints) as caught:
        find_checkpoint(Settings.load(tmp_path))
    assert "a.pt" in caught.value.detail
    assert "b.pt" in caught.value.detail
    found = find_checkpoint(Settings.load(tmp_path, checkpoint="sub/b.pt"))
    assert found.path == tmp_path / "sub" / "b.pt"


def test_score_toml_may_say_which(tmp_path: Path) -> None:
    save(tmp_path / "a.pt")
    path = save(tmp_path / "b.pt")
    (tmp_path / "score.toml").write_text('checkpoint = "b.pt"\n')
    assert find_checkpoint(Settings.load(tmp_path)).path == path


@pytest.mark.parametrize("name", ["../outside.pt", "/etc/passwd", "sub/../../outside.pt"])
def test_the_choice_can_not_leave_the_folder(tmp_path: Path, name: str) -> None:
    save(tmp_path / "outside.pt")
    save(tmp_path / "model" / "a.pt")
    with pytest.raises(NoCheckpoint, match="leaves the model folder"):
        find_checkpoint(Settings.load(tmp_path / "model", checkpoint=name))


def test_a_foreign_file_beside_a_checkpoint_is_no_rival(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt")
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert find_checkpoint(Settings.load(tmp_path)).path == path


def test_a_copy_for_llama_cpp_counts_where_nothing_else_does(tmp_path: Path) -> None:
    makers.gguf(tmp_path)
    assert find_checkpoint(Settings.load(tmp_path)).path == tmp_path / "model.gguf"
    path = save(tmp_path / "model.pt")
    assert find_checkpoint(Settings.load(tmp_path)).path == path


def _unset(_folder: Path) -> Path | None:
    return None


def _nothing_but_text(folder: Path) -> Path:
    (folder / "README.md").write_text("hello")
    return folder


def _missing(folder: Path) -> Path:
    return folder / "models" / "1"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (_unset, ModelDirUnset, "AZUREML_MODEL_DIR"),
        (_missing, ModelDirMissing, "does not exist"),
        (lambda folder: folder, ModelDirEmpty, "no files"),
        (_nothing_but_text, NoCheckpoint, "none of the files"),
    ],
)
def test_nothing_to_load(
    tmp_path: Path, make: Callable[[Path], Path | None], error: type[LoadError], says: str
) -> None:
    with pytest.raises(error, match=says):
        find_checkpoint(Settings.load(make(tmp_path)))


def test_a_wrong_path_shows_how_far_it_is_right(tmp_path: Path) -> None:
    (tmp_path / "models" / "resnet").mkdir(parents=True)
    with pytest.raises(ModelDirMissing) as caught:
        find_checkpoint(Settings.load(tmp_path / "models" / "resnet50"))
    assert "resnet/" in caught.value.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="drops to another user, which takes root")
@pytest.mark.parametrize("what", ["folder", "file", "folder below"])
def test_unreadable_by_this_user(tmp_path: Path, what: str) -> None:
    path = save(tmp_path / "model" / "model.pt")
    for parent in [tmp_path, *tmp_path.parents[:-2]]:  # all below the temporary folder, which is everybody's
        parent.chmod(0o755)
    path.chmod(0o600)
    if what == "folder":
        path.parent.chmod(0o700)
    if what == "folder below":
        (path.parent / "below").mkdir(mode=0o700)
    registry.formats()  # imported now: the other user may not be able to read Python's own modules
    child = os.fork()
    if child == 0:  # the child stands for the server: it must end here, whatever happens
        code = 1
        try:
            os.setuid(65534)
            open_checkpoint(find_checkpoint(Settings.load(tmp_path / "model")).path)
        except ModelDirUnreadable as error:
            code = 0 if "uid 65534" in error.message else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "git-lfs pointer"),
    "link": (b"../../blobs/0123abcd", "symbolic link"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "HTML page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code></Error>", "XML document"),
    "zeros": (bytes(5000), "a file of zeros"),
    "ggml": (b"lmgg\x03\0\0\0" + bytes(50), "GGML"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z or Rar"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(50), "single numpy array"),
    "cut zip": (b"PK\x03\x04" + bytes(500), "cut short"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_ours_is_named_with_the_way_out(tmp_path: Path, kind: str) -> None:
    content, name = FOREIGN[kind]
    (tmp_path / "model.pt").write_bytes(content)
    found = find_checkpoint(Settings.load(tmp_path))
    assert found.format == "foreign"
    with pytest.raises((ForeignFormat, TruncatedFile), match=name) as caught:
        open_checkpoint(found.path)
    assert caught.value.hint


def test_the_tree_fits_on_a_screen(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}").mkdir()
    lines = tree(tmp_path).splitlines()
    assert len(lines) <= 41
    assert lines[-1] == "... and 61 more"


@pytest.mark.parametrize(("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (4_200_000, "4.2 MB"), (3e13, "30.0 TB")])
def test_sizes_for_people(nbytes: float, shown: str) -> None:
    assert size(nbytes) == shown


def test_the_layouts_of_kserves_storage_initializer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file by https, a folder of Azure Blob storage, and a volume whose files are linked into the served folder."""
    served, volume = tmp_path / "mnt" / "models", tmp_path / "mnt" / "pvc"
    served.mkdir(parents=True)
    (volume / "digits").mkdir(parents=True)
    torch.save({"w": torch.ones(2)}, served / "digits.pt")
    assert find_checkpoint(Settings.load(served)).path == served / "digits.pt"
    (served / "nested").mkdir()
    (served / "digits.pt").rename(served / "nested" / "model.pt")
    (served / "nested" / "README.md").write_text("about it")
    assert find_checkpoint(Settings.load(served)).path == served / "nested" / "model.pt"
    (served / "nested" / "model.pt").rename(volume / "digits" / "model.pt")
    (served / "model.pt").symlink_to(volume / "digits" / "model.pt")
    with pytest.raises(LoadError):  # a link that leaves the folder, which whoever packed it may have made
        find_checkpoint(Settings.load(served))
    monkeypatch.setattr(search, "PLATFORM_LINKS", {served: volume})
    assert find_checkpoint(Settings.load(served)).path == served / "model.pt"
    (served / "model.pt").unlink()
    torch.save({"w": torch.ones(2)}, tmp_path / "elsewhere.pt")
    (served / "model.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(LoadError):
        find_checkpoint(Settings.load(served))
