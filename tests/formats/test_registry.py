"""A format is one file: it is found by being there, and no other file has to know of it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import score.formats
from score.formats import registry
from score.settings import Settings
from score.weights.locate import find_checkpoint

ZIP_BASED = """
import torch
from score.formats._io.source import Source
from score.formats._io.zip import Archive
from score.formats.base import StateDict, TensorRef

NAME = "test-zip"
PRIORITY = 0
SERVABLE = True


def detect(probe):
    return probe.has("weights.f32")


def open(path, read):
    archive = Archive(Source(path, read))
    content = archive.bytes("weights.f32")
    load = lambda: torch.frombuffer(bytearray(content), dtype=torch.float32)
    return StateDict(NAME, path, {"weight": TensorRef("float32", (2,), 8, path, load)})
"""


@pytest.fixture
def with_zip_based(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "test_zip_format.py").write_text(ZIP_BASED)
    monkeypatch.setattr(score.formats, "__path__", [*score.formats.__path__, str(tmp_path / "formats")])
    registry.formats.cache_clear()
    yield
    registry.formats.cache_clear()


def test_a_new_format_in_a_zip_needs_no_other_file(with_zip_based: None, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with zipfile.ZipFile(tmp_path / "model" / "net.zip", "w") as archive:
        archive.writestr("weights.f32", b"\0\0\x80?\0\0\0@")  # 1.0 and 2.0
    found = find_checkpoint(Settings.load(tmp_path / "model"))
    assert found.format == "test-zip"
    assert found.opened("auto").tree["weight"].load().tolist() == [1.0, 2.0]


def test_those_that_are_only_refused_come_after_the_others_and_archives_of_anything_last() -> None:
    names = list(registry.formats())
    assert names[-1] == "archive"
    refused = [name for name in names if not registry.servable(name)]
    assert names[-len(refused) - 1 : -1] == refused
    assert refused[-1] == "foreign"
