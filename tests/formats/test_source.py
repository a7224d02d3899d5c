"""Mapping or reading, by the file system."""

from pathlib import Path

import pytest

from score.errors import TruncatedFile
from score.formats._io.source import Source, on_network_mount

MOUNTS = """overlay / overlay rw 0 0
blobfuse2 /var/azureml-app/azureml-models fuse.blobfuse2 rw 0 0
server:/x /mnt/nfs\\040share nfs4 rw 0 0
tmpfs /var/azureml-app/azureml-models/local tmpfs rw 0 0
//host/share /smb cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/var/azureml-app/azureml-models/m/1/model.pt", True),
        ("/var/azureml-app/azureml-models/local/model.pt", False),
        ("/var/azureml-app/other", False),
        ("/mnt/nfs share/model.pt", True),
        ("/smb/model.pt", True),
        ("/model.pt", False),
    ],
)
def test_a_network_mount_is_known_by_the_longest_mount_point(
    monkeypatch: pytest.MonkeyPatch, path: str, network: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _self: MOUNTS)
    assert on_network_mount(Path(path)) is network


def test_auto_reads_on_a_network_mount_and_maps_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    assert Source(tmp_path / "x").mapped
    monkeypatch.setattr("score.formats._io.source.on_network_mount", lambda _path: True)
    assert not Source(tmp_path / "x").mapped
    assert Source(tmp_path / "x", "mmap").mapped


@pytest.mark.parametrize("read", ["mmap", "read"])
def test_a_window_is_a_source_of_its_own(tmp_path: Path, read: str) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    window = Source(tmp_path / "x", read).window(2, 5)
    assert bytes(window.view()) == window.bytes(0, 5) == window.file().read() == b"23456"
    assert bytes(window.storage(1, 3)) == b"345"
    assert bytes(window.window(1, 2).view()) == b"34"
    for offset, count in ((3, 3), (-1, 2), (6, 0)):
        with pytest.raises(TruncatedFile):
            window.bytes(offset, count)


def test_an_open_file_is_closed_when_nothing_needs_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")

    def opened() -> int:
        return sum(link.readlink() == tmp_path / "x" for link in Path("/proc/self/fd").iterdir() if link.is_symlink())

    before = opened()
    source = Source(tmp_path / "x")
    assert opened() == before + 1
    storage = source.storage(0, 4)
    del source
    assert opened() <= before + 1  # a mapping may keep its own
    assert bytes(storage) == b"0123"
