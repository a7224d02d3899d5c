"""Hostile files are ordinary input: refused with a typed error, in little memory, nothing run and nothing written."""

import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from score.errors import LoadError
from score.formats.registry import open_checkpoint
from score.settings import Settings
from score.weights import select
from score.weights.locate import find_checkpoint
from tests.formats.test_unpickler import BOMBS

MARKER = Path("/tmp/score-was-here")
TOUCH = b"touch /tmp/score-was-here"


def archive(path: Path, pickled: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", pickled)
        file.writestr("m/version", "3\n")
        for name, content in records.items():
            file.writestr(f"m/data/{name}", content)


def legacy(path: Path, pickled: bytes) -> None:
    head = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
        + b"\x80\x02M\xe9\x03."
        + b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
    )
    path.write_bytes(head + pickled + b"\x80\x02].")


def call(module: str, name: str, argument: bytes = TOUCH) -> bytes:
    return f"c{module}\n{name}\n(".encode() + b"X" + struct.pack("<I", len(argument)) + argument + b"tR"


RUNNERS: dict[str, bytes] = {
    "os.system": call("os", "system"),
    "posix.system": call("posix", "system"),
    "eval": call("builtins", "eval", b"__import__('os').system('touch /tmp/score-was-here')"),
    "exec": call("__builtin__", "exec", b"import os; os.system('touch /tmp/score-was-here')"),
    "getattr chain": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(X\x02\x00\x00\x00ostRX\x06\x00\x00\x00systemtR(X"
    + struct.pack("<I", len(TOUCH)) + TOUCH + b"tR",
    "torch.load again": call("torch", "load", b"/etc/passwd"),
    "torch.hub": call("torch.hub", "load", b"evil/evil"),
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", 4) + b"evilt" + b"R",
    "numpy loader": call("numpy", "load", b"/etc/passwd"),
    "runpy": call("runpy", "run_path", b"/etc/passwd"),
    "subprocess": call("subprocess", "Popen"),
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05x > y\x85R",
    "dotted stack global": b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93\x8c\x05x > y\x85R",
    "nested name": b"ctorch\nserialization.os.system\n(X\x05\x00\x00\x00x > ytR",
    "newobj": b"\x80\x02csubprocess\nPopen\n(X\x05\x00\x00\x00x > yt\x81",
    "newobj_ex": b"\x80\x04csubprocess\nPopen\n)}X\x04\x00\x00\x00argsX\x05\x00\x00\x00x > ys\x92",
    "inst": b"(X\x05\x00\x00\x00x > yios\nsystem\n",
    "obj": b"(cos\nsystem\nX\x05\x00\x00\x00x > yo",
    "build": b"ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsbX\x05\x00\x00\x00x > yb"[:-1],
    "rebuild from type": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nNX\x05\x00\x00\x00x > y\x85NtR",
    "copyreg": b"ccopy_reg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whatever the file wants, no command is run and nothing is written in the working directory."""
    MARKER.unlink(missing_ok=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield
    assert not MARKER.exists()
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", RUNNERS)
def test_what_wants_to_run_is_read_and_not_run(tmp_path: Path, name: str, write: Callable[[Path, bytes], None]) -> None:
    write(tmp_path / "model.pt", RUNNERS[name] + b".")
    try:
        checkpoint = open_checkpoint(tmp_path / "model.pt")
    except LoadError:
        return
    assert checkpoint.unsafe_globals or name in ("torch.storage._load_from_bytes", "build", "copyreg")
    with pytest.raises(LoadError):
        select.choose(checkpoint)


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", [name for name in BOMBS if name != "memo index"])
def test_bombs_in_a_pickle(tmp_path: Path, name: str, write: Callable[[Path, bytes], None]) -> None:
    write(tmp_path / "model.pt", BOMBS[name])
    with pytest.raises(LoadError):
        open_checkpoint(tmp_path / "model.pt")


def test_billion_laughs_end(tmp_path: Path) -> None:
    stream = b"}q\x00"
    for level in range(100):
        stream += b"}(" + b"".join(bytes([0x4B, key, 0x68, level]) for key in range(10)) + b"uq" + bytes([level + 1])
    archive(tmp_path / "model.pt", stream + b".")
    with pytest.raises(LoadError):
        select.choose(open_checkpoint(tmp_path / "model.pt"))


STORAGE = b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX%sX\x03\x00\x00\x00cpuJ%stQ"


def tensor(key: bytes, numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    named = STORAGE % (struct.pack("<I", len(key)) + key, struct.pack("<i", numel))
    numbers = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    return b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n" + named + number(offset) + numbers + b"\x89NtRs."


TENSORS: dict[str, bytes] = {
    "a key that leaves the archive": tensor(b"../../../etc/passwd", 4, 0, (4,), (1,)),
    "an absolute key": tensor(b"/etc/passwd", 4, 0, (4,), (1,)),
    "strides past the storage": tensor(b"0", 4, 0, (2, 2), (1000, 1)),
    "an offset past the storage": tensor(b"0", 4, 4, (1,), (1,)),
    "a negative offset": tensor(b"0", 4, -1, (1,), (1,)),
    "a negative stride": tensor(b"0", 4, 3, (4,), (-1,)),
    "a negative size": tensor(b"0", 4, 0, (-4,), (1,)),
    "sizes that overflow": tensor(b"0", 4, 0, (1 << 40, 1 << 40), (1 << 40, 1)),
    "more dimensions than torch has": tensor(b"0", 4, 0, (1,) * 100, (1,) * 100),
    "a storage longer than its record": tensor(b"0", 1 << 30, 0, (4,), (1,)),
    "a negative storage": tensor(b"0", -4, 0, (4,), (1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_lie(tmp_path: Path, name: str) -> None:
    archive(tmp_path / "model.pt", TENSORS[name], **{"0": bytes(16)})
    with pytest.raises(LoadError):
        for ref in select.choose(open_checkpoint(tmp_path / "model.pt")).tensors.values():
            ref.load()


def test_an_honest_tensor_of_the_same_making_reads(tmp_path: Path) -> None:
    archive(tmp_path / "model.pt", tensor(b"0", 4, 1, (3,), (1,)), **{"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert select.choose(open_checkpoint(tmp_path / "model.pt")).tensors["w"].load().tolist() == [2, 3, 4]


@pytest.mark.parametrize("expanded", [1 << 40, 1 << 33])
def test_a_tensor_of_stride_zero_may_be_larger_than_its_file_but_is_not_copied(tmp_path: Path, expanded: int) -> None:
    archive(tmp_path / "model.pt", tensor(b"0", 4, 0, (expanded,), (0,)), **{"0": bytes(16)})
    weights = select.choose(open_checkpoint(tmp_path / "model.pt"))
    assert weights.tensors["w"].load().shape == (expanded,)


# zip


def _deflated_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", bytes(400_000_000))


def _lying_size(path: Path) -> None:
    archive(path, b"}.")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 20 : at + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    path.write_bytes(content)


def _overlap(path: Path) -> None:
    archive(path, b"}.", **{"0": bytes(64)})
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(content)


def _twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file, pytest.warns(UserWarning):
        file.writestr("m/data.pkl", b"}.")
        file.writestr("m/data.pkl", b"].")


def _named(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("m/data.pkl", b"}.")
            file.writestr(name, b"x")

    return write


def _bad_deflate(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", b"}." * 1000)
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


ZIPS: dict[str, Callable[[Path], None]] = {
    "deflated bomb": _deflated_bomb,
    "lying size": _lying_size,
    "overlapping records": _overlap,
    "one name twice": _twice,
    "a name that climbs": _named("m/../../evil"),
    "an absolute name": _named("/etc/evil"),
    "a backslash": _named("m\\..\\evil"),
    "damaged deflate": _bad_deflate,
}


@pytest.mark.parametrize("name", ZIPS)
def test_hostile_zips(tmp_path: Path, name: str) -> None:
    ZIPS[name](tmp_path / "model.pt")
    with pytest.raises(LoadError):
        select.choose(open_checkpoint(tmp_path / "model.pt"))


def test_a_mar_that_inflates_to_much(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.mar", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.pt", bytes(300_000_000))
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"serializedFile": "model.pt"}}))
    with pytest.raises(LoadError, match="claims to inflate"):
        open_checkpoint(tmp_path / "model.mar")


@pytest.mark.parametrize("serialized", ["../../etc/passwd", "/etc/passwd", "missing.pt", 5, None])
def test_a_mar_that_names_what_is_not_in_it(tmp_path: Path, serialized: Any) -> None:
    with zipfile.ZipFile(tmp_path / "model.mar", "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"serializedFile": serialized}}))
    with pytest.raises(LoadError):
        open_checkpoint(tmp_path / "model.mar")


def test_a_tar_with_links_is_not_extracted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.pt", "w:") as file:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            file.addfile(info)
    with pytest.raises(LoadError):
        open_checkpoint(tmp_path / "model.pt")


def test_links_out_of_the_model_folder_are_not_followed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "secret.pt")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt").symlink_to(tmp_path / "secret.pt")
    with pytest.raises(LoadError) as caught:
        find_checkpoint(Settings.load(tmp_path / "model"))
    assert "model.pt  -> " in caught.value.detail
    with pytest.raises(LoadError, match="leaves the model folder"):
        find_checkpoint(Settings.load(tmp_path / "model", checkpoint="model.pt"))
    (tmp_path / "model" / "inside.pt").write_bytes((tmp_path / "secret.pt").read_bytes())
    (tmp_path / "model" / "model.pt").unlink()
    (tmp_path / "model" / "model.pt").symlink_to("inside.pt")
    find_checkpoint(Settings.load(tmp_path / "model", checkpoint="model.pt"))


def test_a_fifo_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(LoadError):
        find_checkpoint(Settings.load(tmp_path))


def test_memory_stays_small(tmp_path: Path) -> None:
    """All of the above that could grow, in one process: its peak stays within 500 MB of where it began."""
    for name, stream in BOMBS.items():
        archive(tmp_path / f"{name}.pt", stream)
    for name, write in ZIPS.items():
        if name != "one name twice":
            write(tmp_path / f"{name}.zip.pt")
    with zipfile.ZipFile(tmp_path / "opcodes.pt", "w") as file:
        file.writestr("m/data.pkl", b"]0" * 3_000_000 + b"}.")
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 90_000_000) + b'{"a":' + b"[" * 1000)
    (tmp_path / "deep.safetensors").write_bytes(struct.pack("<Q", 100_000) + b'{"a":' + b"[" * 99_995)
    code = (
        "import resource, sys, pathlib\n"
        "from score.errors import LoadError\n"
        "from score.formats.registry import open_checkpoint, formats\n"
        "from score.weights.select import candidates\n"
        "formats()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.*')):\n"
        "    try:\n        candidates(open_checkpoint(path))\n    except LoadError:\n        pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000, f"{int(done.stdout) / 1e3:.0f} MB"
