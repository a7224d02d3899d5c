"""Checkpoints in archives: read as the folder that they hold, where it lies; nothing leaves it, and nothing is left."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from score.errors import (
    ArchiveTooLarge,
    LoadError,
    MalformedFile,
    NoCheckpoint,
    SeveralCheckpoints,
    TruncatedFile,
    UnsupportedFormat,
    UntrustedCode,
)
from score.formats import registry
from score.formats._io import members, placed, unpacked
from score.formats._io.source import Source
from score.inference import pipeline
from score.settings import Settings
from score.weights import hashing, select
from score.weights.locate import find_checkpoint, find_checkpoints
from score.weights.opened import open_weights
from tests import makers

Files = dict[str, bytes]


def replaced(path: Path, content: bytes) -> None:
    """Write a file anew: one that is mapped must not shrink."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


find_home = unpacked._home


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for what is unpacked that no other test uses."""
    place = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(unpacked, "_home", lambda: place)
    return place


def saved(value: object, **how: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def tar(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Files, how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar_of(*infos: tarfile.TarInfo, files: Files | None = None) -> bytes:
    """A tar with entries that are no files, behind those that are."""
    buffer = io.BytesIO(tar(files or {}))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for info in infos:
            archive.addfile(info)
    return buffer.getvalue()


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd,
}  # fmt: skip
PACKED: dict[str, Callable[[Files], bytes]] = {
    "model.tar": tar,
    "model.tar.gz": lambda files: tar(files, "w:gz"),
    "model.tgz": lambda files: tar(files, "w:gz"),
    "model.tar.bz2": lambda files: tar(files, "w:bz2"),
    "model.tar.xz": lambda files: tar(files, "w:xz"),
    "model.tar.zst": lambda files: zstd(tar(files)),
    "model.nemo": tar,
    "model.zip": zipped,
    "deflated.zip": lambda files: zipped(files, zipfile.ZIP_DEFLATED),
    "zip-in.zip": lambda files: zipped({"inner.zip": zipped(files)}, zipfile.ZIP_DEFLATED),
    "tar-in.zip": lambda files: zipped({"deep/inner.tar": tar(files)}),
    "three.zip": lambda files: zipped({"a.tar": tar({"b.zip": zipped(files)})}),
}


@pytest.fixture(params=PACKED)
def packing(request: pytest.FixtureRequest) -> tuple[str, Callable[[Files], bytes]]:
    return request.param, PACKED[request.param]


def large() -> dict[str, torch.Tensor]:
    """Weights that are worth leaving in the archive."""
    torch.manual_seed(5)
    return {"fc.weight": torch.randn(600, 700), "fc.bias": torch.randn(600)}


def the_same(path: Path, state: dict[str, torch.Tensor], **settings: object) -> None:
    weights = open_weights(Settings.load(path, **settings)).weights
    assert weights is not None
    assert set(weights.tensors) == set(state)
    for name, tensor in state.items():
        assert torch.equal(weights.tensors[name].load(), tensor)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_any_packing_gives_what_was_packed(
    packing: tuple[str, Callable[[Files], bytes]], kind: str, tmp_path: Path
) -> None:
    name, pack = packing
    state = large()
    if kind == "safetensors":
        from safetensors.torch import save

        content = save(state)
    else:
        content = saved(state, _use_new_zipfile_serialization=kind == "zip")
    path = tmp_path / name
    path.write_bytes(pack({"config.yaml": b"a: 1\n", "weights/best.pth": content}))
    the_same(tmp_path, state)
    the_same(path, state)  # the archive itself, too
    the_same(tmp_path, state, read="read")


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_file_that_is_compressed_is_the_file(suffix: str, tmp_path: Path) -> None:
    state = large()
    path = tmp_path / f"model.pth.{suffix}"
    path.write_bytes(COMPRESSED[suffix](saved(state)))
    the_same(path, state)
    assert registry.open_checkpoint(path).metadata["member"] == "model.pth"


@pytest.mark.parametrize("maker", [name for name in makers.MAKERS if name not in ("aot-inductor", "archive")])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_every_format_is_read_from_a_tar_as_from_its_folder(maker: str, mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    state = makers.MAKERS[maker](folder)
    with tarfile.open(tmp_path / "model.tar", mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, ".")
    the_same(tmp_path / "model.tar", state)


def test_stored_members_stay_where_they_are_and_take_no_space(tmp_path: Path) -> None:
    content = saved(large())
    (tmp_path / "model.tar").write_bytes(tar({"best.pth": content, "notes.txt": b"n"}))
    opened = open_weights(Settings.load(tmp_path)).checkpoint
    assert placed.of(opened.path).path == tmp_path / "model.tar"
    assert opened.path.stat().st_size == len(content)
    assert opened.path.stat().st_blocks == 0
    assert hashing.file_sha256(opened.path) == __import__("hashlib").sha256(content).hexdigest()
    assert Source(opened.path).file().read() == content


def test_weights_never_change_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.tar"
    path.write_bytes(before := tar({"best.pth": saved(large())}))
    weights = select.weights_of(registry.open_checkpoint(path, "mmap"))
    assert weights is not None
    for ref in weights.tensors.values():
        ref.load().zero_()
    assert path.read_bytes() == before


def test_a_server_answers_from_an_archive_as_from_the_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    for name in ("plain", "packed"):
        (tmp_path / name).mkdir()
    torch.save(model, tmp_path / "plain" / "model.pt")
    (tmp_path / "packed" / "model.tar.gz").write_bytes(
        tar({"model.pt": (tmp_path / "plain" / "model.pt").read_bytes(), "labels.txt": b"cat\ndog\n"}, "w:gz")
    )
    rows = torch.randn(3, 4).numpy()
    plain = pipeline.load_model(Settings.load(tmp_path / "plain"))
    packed = pipeline.load_model(Settings.load(tmp_path / "packed"))
    assert (plain(rows) == packed(rows)).all()
    assert packed.report.format == "archive"
    assert packed.report.path == str(tmp_path / "packed" / "model.tar.gz" / "model.pt")
    assert packed(rows, top_k=1)[0][0]["label"] in ("cat", "dog")


def test_labels_beside_a_compressed_file_are_its_labels(tmp_path: Path) -> None:
    (tmp_path / "model.pt.gz").write_bytes(gzip.compress(saved(nn.Sequential(nn.Linear(4, 2)))))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    answer = pipeline.load_model(Settings.load(tmp_path))(torch.zeros(1, 4).numpy(), top_k=1)
    assert answer[0][0]["label"] in ("cat", "dog")


def test_stable_baselines3_has_its_policy_among_other_tensors(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()
    (tmp_path / "ppo.zip").write_bytes(
        zipped(
            {
                "data": b"{}",
                "policy.pth": saved(large()),
                "policy.optimizer.pth": saved(optimizer),
                "pytorch_variables.pth": saved({"log_ent_coef": torch.ones(3)}),
                "_stable_baselines3_version": b"2.3.0",
                "system_info.txt": b"- Python 3.11",
            }
        )
    )
    the_same(tmp_path, large())


def test_of_several_one_is_named_by_its_path_in_the_archive(tmp_path: Path) -> None:
    other = {"fc.weight": torch.zeros(3, 2)}
    (tmp_path / "model.tar.gz").write_bytes(tar({"a/one.pth": saved(large()), "b/two.pth": saved(other)}, "w:gz"))
    with pytest.raises(SeveralCheckpoints, match=r"model\.tar\.gz holds 2 checkpoints") as caught:
        find_checkpoint(Settings.load(tmp_path))
    assert caught.value.choices == [
        {"checkpoint": "model.tar.gz/a/one.pth"},
        {"checkpoint": "model.tar.gz/b/two.pth"},
    ]
    assert "loadstone-" not in str(caught.value.as_dict())
    the_same(tmp_path, other, checkpoint="model.tar.gz/b/two.pth")
    the_same(tmp_path / "model.tar.gz", other, checkpoint="model.tar.gz/b/two.pth")
    with pytest.raises(NoCheckpoint, match="there is no such file"):
        find_checkpoint(Settings.load(tmp_path, checkpoint="model.tar.gz/b/three.pth"))
    with pytest.raises(NoCheckpoint, match="leaves the model folder"):
        find_checkpoint(Settings.load(tmp_path, checkpoint="model.tar.gz/../../b.pth"))


def test_one_is_named_in_an_archive_in_an_archive(tmp_path: Path) -> None:
    inner = zipped({"one.pth": saved(large()), "two.pth": saved({"w": torch.ones(2)})})
    (tmp_path / "outer.zip").write_bytes(zipped({"x/inner.zip": inner}))
    the_same(tmp_path, large(), checkpoint="outer.zip/x/inner.zip/one.pth")


def test_a_checkpoint_beside_an_archive_is_meant_and_a_trainers_state_is_not(tmp_path: Path) -> None:
    replaced(tmp_path / "data.zip", zipped({"decoy.pth": saved({"w": torch.ones(2)})}))
    replaced(tmp_path / "model.pth", saved(large()))
    the_same(tmp_path, large())
    replaced(tmp_path / "model.pth", saved({"epoch": 3}))
    replaced(tmp_path / "data.zip", zipped({"inner.pth": saved(large())}))
    the_same(tmp_path, large())


def test_of_several_archives_the_one_with_a_checkpoint_is_meant(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(zipped({"cat.jpg": b"\xff\xd8"}))
    (tmp_path / "model.tar.gz").write_bytes(tar({"model.pth": saved(large())}, "w:gz"))
    the_same(tmp_path, large())
    assert [found.path.name for found in find_checkpoints(Settings.load(tmp_path))] == ["model.tar.gz"]
    (tmp_path / "other.zip").write_bytes(zipped({"model.pth": saved(large())}))
    with pytest.raises(SeveralCheckpoints):
        find_checkpoint(Settings.load(tmp_path))


def test_an_archive_without_a_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(tar({"a/cat.jpg": b"\xff\xd8", "notes.md": b"#"}))
    with pytest.raises(NoCheckpoint, match=r"images\.tar") as caught:
        find_checkpoint(Settings.load(tmp_path))
    assert "cat.jpg" in caught.value.detail
    assert "loadstone-" not in caught.value.message + caught.value.detail
    with pytest.raises(NoCheckpoint, match=r"images\.tar"):
        registry.open_checkpoint(tmp_path / "images.tar")


@pytest.mark.parametrize("link", ["shared/real.pth", "./shared/../shared/real.pth"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_the_archive_is_the_file_it_leads_to(link: str, kind: bytes, tmp_path: Path) -> None:
    files = {"shared/real.pth": saved(large())}
    (tmp_path / "model.tar").write_bytes(tar_of(entry("model.pth", kind, link), files=files))
    the_same(tmp_path, large(), checkpoint="model.tar/model.pth")


def test_a_link_in_a_zip_is_the_file_it_leads_to(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("a/real.pth", saved(large()))
        info = zipfile.ZipInfo("model.pth")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "a/real.pth")
    the_same(tmp_path, large(), checkpoint="model.zip/model.pth")


HOSTILE = {
    "up": tar({"../out.pth": b"x"}),
    "absolute": tar({"/etc/out.pth": b"x"}),
    "up in the middle": tar({"a/../../out.pth": b"x"}),
    "link up": tar_of(entry("a.pth", tarfile.SYMTYPE, "../../etc/passwd"), files={"b": b"x"}),
    "link absolute": tar_of(entry("a.pth", tarfile.SYMTYPE, "/etc/passwd"), files={"b": b"x"}),
    "hard link up": tar_of(entry("a.pth", tarfile.LNKTYPE, "../b"), files={"b": b"x"}),
    "link to nothing": tar_of(entry("a.pth", tarfile.SYMTYPE, "nothing"), files={"b": b"x"}),
    "link to itself": tar_of(entry("a.pth", tarfile.SYMTYPE, "a.pth"), files={"b": b"x"}),
    "link to a folder": tar_of(entry("a", tarfile.SYMTYPE, "b"), files={"b/c.pth": b"x"}),
    "a file through a link": tar_of(entry("a", tarfile.SYMTYPE, "/tmp"), files={"a/c.pth": b"x"}),
    "device": tar_of(entry("a.pth", tarfile.CHRTYPE), files={"b": b"x"}),
    "pipe": tar_of(entry("a.pth", tarfile.FIFOTYPE), files={"b": b"x"}),
    "twice": tar({"a": b"x"})[:1024] + tar({"a": b"y"}),
    "file and folder": tar({"a": b"x", "a/b": b"y"}),
    "long name": tar({"a" * 300: b"x"}),
    "zip up": zipped({"../out.pth": b"x"}),
    "zip absolute": zipped({"/out.pth": b"x"}),
    "zip backslash": zipped({"..\\out.pth": b"x"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_leaves_the_archive_or_is_no_file_refuses_it_all(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.tar"
    path.write_bytes(HOSTILE[name])
    before = set(unpacked._home().iterdir())
    with pytest.raises(MalformedFile, match=r"model\.tar"):
        registry.open_checkpoint(path)
    assert set(unpacked._home().iterdir()) == before


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    content = bytearray(zipped({"model.pth": b"x" * 40}))
    content[6] |= 1  # in the local header, and in the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(UnsupportedFormat, match="encrypted"):
        registry.open_checkpoint(tmp_path / "model.zip")


@pytest.mark.parametrize("name", [name for name in PACKED if name != "three.zip"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_one_cut_short_is_refused(name: str, share: float, tmp_path: Path) -> None:
    content = PACKED[name]({"best.pth": saved(large())})
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(LoadError) as caught:
        open_weights(Settings.load(tmp_path))
    assert caught.value.code in ("truncated_file", "malformed_file", "foreign_format")
    assert name in caught.value.message


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_stream_cut_short_by_a_byte_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.pth.{suffix}"
    path.write_bytes(COMPRESSED[suffix](saved(large()))[:-1])
    with pytest.raises((TruncatedFile, MalformedFile), match=path.name):
        registry.open_checkpoint(path)


def test_a_tar_that_lost_its_last_files_is_refused(tmp_path: Path) -> None:
    content = tar({"model.pth": saved(large()), "labels.txt": b"a\nb\n"})
    at = content.index(b"labels.txt")
    (tmp_path / "model.tar").write_bytes(content[:at])
    with pytest.raises(TruncatedFile, match="without its end"):
        registry.open_checkpoint(tmp_path / "model.tar")


def test_a_flipped_bit_in_a_stored_member_is_found(tmp_path: Path) -> None:
    from safetensors.torch import save

    content = bytearray(zipped({"model.safetensors": save(large())}))
    content[len(content) // 2] ^= 1
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(MalformedFile, match="checksum"):
        registry.open_checkpoint(tmp_path / "model.zip")


def test_a_bomb_stops_at_the_limit_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.pth.gz").write_bytes(gzip.compress(bytes(80_000_000)))
    with pytest.raises(ArchiveTooLarge, match=r"model\.pth\.gz.*0\.05 GB"):
        find_checkpoint(Settings.load(tmp_path, max_unpacked_gb=0.05))
    assert not list(unpacked._home().rglob("model.pth"))


def test_the_limit_counts_archives_in_archives_together(tmp_path: Path) -> None:
    inner = gzip.compress(saved({"w": torch.zeros(700_000)}))
    files = {f"{at}/model.pth.gz": inner for at in range(4)}
    (tmp_path / "model.zip").write_bytes(zipped(files, zipfile.ZIP_DEFLATED))
    with pytest.raises(ArchiveTooLarge):
        find_checkpoint(Settings.load(tmp_path, max_unpacked_gb=0.005))


def test_archives_nest_only_so_deep(tmp_path: Path) -> None:
    content = saved(large())
    for _ in range(6):
        content = zipped({"model.zip": content})
    (tmp_path / "model.zip").write_bytes(content)
    with pytest.raises(MalformedFile, match="an archive in more than"):
        find_checkpoint(Settings.load(tmp_path))


def test_what_is_trusted_is_the_archive(tmp_path: Path) -> None:
    from tests.makers import Net

    (tmp_path / "model.tar.gz").write_bytes(tar({"model.pt": saved(Net())}, "w:gz"))
    with pytest.raises(UntrustedCode) as caught:
        pipeline.load_model(Settings.load(tmp_path))
    digest = hashing.file_sha256(tmp_path / "model.tar.gz")
    assert digest in caught.value.hint
    model = pipeline.load_model(Settings.load(tmp_path, trust_sha256=digest))
    assert model(torch.zeros(1, 1, 8, 8).numpy()).shape == (1, 2)


def test_sha256sums_in_the_archive_are_checked(tmp_path: Path) -> None:
    content = saved(large())
    digest = __import__("hashlib").sha256(content).hexdigest()
    listed = f"{digest}  model.pth\n".encode()
    replaced(tmp_path / "model.tar", tar({"model.pth": content, "SHA256SUMS": listed}))
    the_same(tmp_path, large())
    replaced(tmp_path / "model.tar", tar({"model.pth": saved({"w": torch.ones(2)}), "SHA256SUMS": listed}))
    with pytest.raises(LoadError) as caught:
        open_weights(Settings.load(tmp_path))
    assert caught.value.code == "checksum_mismatch"


OPENS = """
import sys
from score.settings import Settings
from score.weights.opened import open_weights
opened = open_weights(Settings.load(sys.argv[1]))
print(opened.checkpoint.path, flush=True)
sys.stdin.read()
"""


def _open(path: Path, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPENS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip


def test_processes_share_what_is_unpacked_and_the_last_removes_it(tmp_path: Path) -> None:
    (tmp_path / "model.pth.gz").write_bytes(gzip.compress(saved(large())))
    (temporary := tmp_path / "tmp").mkdir()
    both = [_open(tmp_path / "model.pth.gz", temporary) for _ in range(2)]
    first, second = (Path(process.stdout.readline().strip()) for process in both)  # type: ignore[union-attr]
    assert first == second
    both[0].communicate("")
    assert first.is_file()
    both[1].communicate("")
    assert not first.exists()
    assert not [each for each in temporary.rglob("*") if each.is_file()]


def test_what_a_killed_process_left_the_next_one_removes(tmp_path: Path) -> None:
    (temporary := tmp_path / "tmp").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.pth.gz").write_bytes(gzip.compress(saved(large())))
    killed = _open(tmp_path / "one.pth.gz", temporary)
    left = Path(killed.stdout.readline().strip())  # type: ignore[union-attr]
    killed.kill()
    killed.communicate()
    assert left.is_file()
    after = _open(tmp_path / "two.pth.gz", temporary)
    after.stdout.readline()  # type: ignore[union-attr]
    assert not left.exists()
    after.communicate("")


def test_a_folder_that_others_could_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"loadstone-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"loadstone-{os.getuid()}").chmod(0o777)
    home = find_home.__wrapped__()
    assert home.name != f"loadstone-{os.getuid()}"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_another_archive_of_the_same_name_is_another(tmp_path: Path) -> None:
    path = tmp_path / "model.tar"
    path.write_bytes(tar({"model.pth": saved(large())}))
    the_same(path, large())
    time.sleep(0.01)
    replaced(path, tar({"model.pth": saved({name: tensor + 1 for name, tensor in large().items()})}))
    the_same(path, {name: tensor + 1 for name, tensor in large().items()})


@given(
    st.binary(max_size=600),
    st.sampled_from([b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"]),
)
def test_any_bytes_behind_a_magic_are_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes, magic: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.bin"
    path.write_bytes(magic + rest)
    with pytest.raises(LoadError, match=r"model\.bin"):
        registry.open_checkpoint(path)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.dat", fullmatch=True), st.binary(max_size=3000), min_size=1
    )
)
def test_members_are_what_tarfile_and_zipfile_say(tmp_path_factory: pytest.TempPathFactory, files: Files) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name, content in (("a.tar", tar(files)), ("a.zip", zipped(files, zipfile.ZIP_DEFLATED))):
        (folder / name).write_bytes(content)
        found = members.members(Source(folder / name), content[:4096])
        assert {each.name: each.open().read() for each in found} == files
