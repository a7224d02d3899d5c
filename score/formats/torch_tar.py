"""`torch-tar`: torch.save before 0.1.10. A tar with `storages`, `tensors` and `pickle`.

`storages` is a count, then for each a pickle (key, location, type), an int64 count and the elements; then views of
storages. `tensors` is a count, then for each a pickle (key, storage, type), the number of dimensions, sizes, strides
and the offset. `pickle` names tensors by key. Source: torch/serialization.py, `legacy_load`.
"""

import itertools
import struct
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

from score.errors import MalformedFile, TruncatedFile
from score.formats._io.members import is_tar
from score.formats._io.source import Source
from score.formats._pickle.inert import Restricted
from score.formats._pickle.read import metadata, no_storages, read_pickle, window
from score.formats._pickle.rebuild import StorageRef, storage_dtype, strided
from score.formats._pickle.vm import Unpickler
from score.formats.base import Checkpoint, StateDict, TensorRef
from score.formats.dtypes import ITEMSIZE
from score.formats.probe import Probe

NAME = "torch-tar"
PRIORITY = 0
SERVABLE = True
MEMBERS = {"storages", "tensors", "pickle"}
_FIRST = (b"sys", b"./sys", b"storages", b"./storages", b"tensors", b"./tensors", b"pickle", b"./pickle")


def detect(probe: Probe) -> bool:
    return is_tar(probe.head) and _names(probe) >= MEMBERS


def _names(probe: Probe) -> set[str]:
    """The first names in a tar: whatever comes first in it, a `sys_info` or a header of pax's."""
    try:
        with tarfile.open(probe.path, "r:") as archive:
            return {member.name.removeprefix("./") for member in itertools.islice(archive, 16)}
    except (tarfile.TarError, EOFError, ValueError, OSError):
        return {"pickle", "storages", "tensors"} if probe.head[:100].rstrip(b"\0") in _FIRST else set()


def open(path: Path, read: str) -> Checkpoint:
    whole = Source(path, read)
    parts = {name: whole.window(*place, name=f"{path.name}:{name}") for name, place in _members(path).items()}
    storages = _storages(parts["storages"])
    objects: dict[str, Any] = {**storages, **_tensors(parts["tensors"], storages)}
    data = parts["pickle"].view()
    policy = Restricted(len(data))

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and pid:
            return pid[0]  # a class with its source code, which stays where it is
        if str(pid) not in objects:
            raise MalformedFile(f"{path.name}: the pickle names an object {pid!r} that is not in the archive")
        return objects[str(pid)]

    value = Unpickler(data, policy, persistent, name=parts["pickle"].name).load()
    # A module of those days is not revived: its class would need a torch of 2016 around it.
    return StateDict(NAME, path, value, unsafe_globals=tuple(policy.unsafe), metadata=metadata(value))


def _members(path: Path) -> dict[str, tuple[int, int]]:
    """Where each member's bytes lie: (offset, size). Nothing is extracted."""
    try:
        with tarfile.open(path, "r:") as archive:
            found = {
                member.name.removeprefix("./"): (member.offset_data, member.size)
                for member in archive
                if member.isreg() and member.name.removeprefix("./") in MEMBERS
            }
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise TruncatedFile(f"{path.name}: a tar archive cut short or damaged ({error})") from None
    if missing := MEMBERS - set(found):
        raise TruncatedFile(f"{path.name}: the archive lacks {', '.join(sorted(missing))}")
    return found


def _count(value: Any) -> int:
    if isinstance(value, int) and 0 <= value < 1 << 32:
        return value
    raise MalformedFile(f"torch-tar says {value!r} where a count belongs")


def _storages(source: Source) -> dict[str, StorageRef]:
    data, name = source.view(), source.name
    counted = read_pickle(data, no_storages, name=name)
    position, found = counted.end, dict[str, StorageRef]()
    for _ in range(_count(counted.value)):
        described = read_pickle(data, no_storages, name=name, position=position)
        key, dtype = _key(described.value), storage_dtype(described.value[2])
        count = int.from_bytes(source.bytes(described.end, 8), "little", signed=True)
        offset, nbytes = described.end + 8, count * ITEMSIZE[dtype]
        source.check(offset, nbytes, f"the storage {key!r}")
        found[key] = StorageRef(dtype, nbytes, partial(source.storage, offset, nbytes))
        position = offset + nbytes
    for view in read_pickle(data, no_storages, name=name, position=position).value:
        target, root, offset, length = view
        if str(root) not in found:
            raise MalformedFile(f"{name}: a view of a storage {root!r} that is not in the archive")
        found[str(target)] = window(found[str(root)], offset, length)
    return found


def _tensors(source: Source, storages: dict[str, StorageRef]) -> dict[str, TensorRef]:
    data, name = source.view(), source.name
    counted = read_pickle(data, no_storages, name=name)
    position, found = counted.end, dict[str, TensorRef]()
    for _ in range(_count(counted.value)):
        described = read_pickle(data, no_storages, name=name, position=position)
        key, storage = _key(described.value), str(described.value[1])
        if storage not in storages:
            raise MalformedFile(f"{name}: a tensor in a storage {storage!r} that is not in the archive")
        position = described.end
        (dims,) = struct.unpack("<i", source.bytes(position, 4))
        if not 0 <= dims <= 64:
            raise MalformedFile(f"{name}: a tensor of {dims} dimensions")
        numbers = struct.unpack(f"<{2 * dims + 1}q", source.bytes(position + 8, 8 * (2 * dims + 1)))
        found[key] = strided(storages[storage], numbers[-1], numbers[:dims], numbers[dims:-1])
        position += 8 + 8 * (2 * dims + 1)
    return found


def _key(described: Any) -> str:
    if isinstance(described, tuple) and len(described) == 3:
        return str(described[0])
    raise MalformedFile("torch-tar describes a storage or tensor in another way than torch did")
