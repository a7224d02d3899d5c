"""TorchScript's values: the pickles of an archive, read into what they say, and written again for torch to read.

The pickles are of a narrow kind: objects of the archive's own classes, plain values, tensors, and lists and dicts with
the type of what is in them. Everything else is refused before torch sees it; what torch reads is written here, from
what was read.

Source: torch/csrc/jit/serialization/pickler.cpp and unpickler.cpp.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats import dtypes
from score.formats._pickle import rebuild
from score.formats._pickle.read import FindStorage, Storages
from score.formats._pickle.rebuild import StorageRef
from score.formats._pickle.vm import Unpickler
from score.formats.base import GlobalName, TensorRef

MAX_DEPTH = 400
_LISTS = {f"torch.jit._pickle.{name}" for name in ("build_intlist", "build_doublelist", "build_boollist")}
_TENSOR_LIST, _TAG = "torch.jit._pickle.build_tensorlist", "torch.jit._pickle.restore_type_tag"
_REBUILD = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor"}
_PLAIN = {"collections.OrderedDict", "torch.device", "builtins.complex", _TAG, _TENSOR_LIST, *_LISTS, *_REBUILD}
_SCHEMES = frozenset(
    ("per_tensor_affine", "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric",
     "per_channel_affine_float_qparams")
)  # fmt: skip
_STORAGE_NAMES = {dtype: name for name, dtype in reversed(rebuild.STORAGE_DTYPES.items()) if name != "UntypedStorage"}


@dataclass(eq=False)
class Object:
    """An object of a class of the archive: its path, and the attributes, or the state of another form, that it has."""

    path: str
    state: Any = None

    def attributes(self) -> dict[str, Any]:
        return self.state if isinstance(self.state, dict) else {}


@dataclass(eq=False)
class Call:
    """A function of torch's own unpickler, with what it is given."""

    function: str
    args: tuple[Any, ...]
    tensor: TensorRef | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """A member of an Enum of the archive, by its value."""

    path: str
    value: Any


@dataclass(eq=False)
class Read:
    """A pickle's value, the devices of its tensors, and what of it needs trust, in words."""

    value: Any
    locations: tuple[str, ...]
    findings: tuple[str, ...]


def read(data: Any, find: FindStorage, name: str) -> Read:
    """Raises `MalformedFile`."""
    storages, policy = Storages(find), _Values()
    value = Unpickler(data, policy, storages, name=name).load()
    return Read(value, tuple(storages.locations), tuple(policy.findings))


@dataclass
class _Values:
    """The policy of a pickle of TorchScript: see `_unpickler.Policy`."""

    findings: dict[str, None] = field(default_factory=dict)

    def find(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if module == "torch" and name in _SCHEMES:
            return getattr(torch, name)
        is_storage = name in rebuild.STORAGE_DTYPES and module in ("torch", "torch.cuda", "torch.storage")
        if path not in _PLAIN and not is_storage and not path.startswith("__torch__."):
            self.findings[f"{path[:120]}, in a pickle"] = None
        return GlobalName(path)

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        if not isinstance(function, GlobalName):
            raise TypeError("a call of something that is no function")
        path = function.path
        if path == "collections.OrderedDict" and not args:
            return OrderedDict()
        if path == "torch._utils._rebuild_tensor_v2":
            return Call(path, args, rebuild.rebuild_tensor(*args))
        if path == "torch._utils._rebuild_qtensor":
            return Call(path, args, rebuild.rebuild_quantized(*args))
        return Call(path, args)

    def member(self, function: Any, value: Any) -> Member:
        if not isinstance(function, GlobalName) or not isinstance(value, (str, int, float)):
            raise TypeError("a member of something that is no Enum")
        return Member(function.path, value)

    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> Any:
        if not isinstance(cls, GlobalName) or args or kwargs:
            raise TypeError("an object made in another way than TorchScript does")
        return Object(cls.path)

    def build(self, target: Any, state: Any) -> None:
        if not isinstance(target, Object) or target.state is not None:
            raise TypeError("a state for something that has none")
        target.state = state

    def extend(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, list):
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(items)

    def update(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        if not isinstance(target, dict):
            raise TypeError(f"keys for a {type(target).__name__}")
        target.update(pairs)


class Writer:
    """Writes values as torch's unpickler reads them; objects that occur twice are written once.

    `lent` are the tensors whose values are put in afterwards, by the caller: they are written as one element each.
    `storages` is what has been named, in order: the bytes of each are the record of its number.
    """

    def __init__(self, lent: set[int]) -> None:
        self.lent = lent
        self.storages: list[StorageRef | None] = []
        self._keys: dict[int, int] = {}
        self._memo: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no number stands for two objects
        self._out = bytearray()

    def write(self, value: Any) -> bytes:
        self._out = bytearray(b"\x80\x02")
        self._put(value, MAX_DEPTH)
        return bytes(self._out + b".")

    def _put(self, value: Any, depth: int) -> None:
        if depth == 0:
            raise MalformedFile(f"TorchScript values nested more than {MAX_DEPTH} deep")
        if id(value) in self._memo:
            self._out += b"j" + struct.pack("<I", self._memo[id(value)])
            return
        writer = _WRITERS.get(type(value)) or (Writer._scheme if isinstance(value, torch.qscheme) else None)
        if writer is None:
            raise MalformedFile(f"a value of TorchScript that is a {type(value).__name__}")
        writer(self, value, depth - 1)
        if isinstance(value, (Object, Call, list, dict)):
            self._memo[id(value)] = len(self._kept)
            self._kept.append(value)
            self._out += b"r" + struct.pack("<I", self._memo[id(value)])

    def _global(self, path: str) -> None:
        module, _, name = path.rpartition(".")
        if "\n" in path or not module:
            raise MalformedFile(f"a class called {path!r:.120}")
        self._out += f"c{module}\n{name}\n".encode()

    def _tuple(self, items: Iterable[Any], depth: int) -> None:
        self._out += b"("
        for item in items:
            self._put(item, depth)
        self._out += b"t"

    def _int(self, value: int, depth: int) -> None:
        raw = value.to_bytes(8, "little", signed=True) if -(1 << 63) <= value < 1 << 63 else b""
        if not raw:
            raise MalformedFile("an integer of more than 64 bits")
        self._out += b"J" + raw[:4] if -(1 << 31) <= value < 1 << 31 else b"\x8a\x08" + raw

    def _text(self, value: str, depth: int) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self._out += b"X" + struct.pack("<I", len(raw)) + raw

    def _list(self, value: list[Any], depth: int) -> None:
        self._out += b"]("
        for item in value:
            self._put(item, depth)
        self._out += b"e"

    def _dict(self, value: dict[Any, Any], depth: int) -> None:
        self._out += b"}("
        for key, item in value.items():
            self._put(key, depth)
            self._put(item, depth)
        self._out += b"u"

    def _ordered(self, value: Any, depth: int) -> None:
        if value:
            raise MalformedFile("an OrderedDict of hooks in TorchScript")
        self._global("collections.OrderedDict")
        self._out += b")R"

    def _object(self, value: Object, depth: int) -> None:
        self._global(value.path)
        self._out += b")\x81"
        self._put(value.state, depth)
        self._out += b"b"

    def _scheme(self, value: torch.qscheme, depth: int) -> None:
        self._global(f"torch.{str(value).removeprefix('torch.')}")

    def _member(self, value: Member, depth: int) -> None:
        self._global(value.path)
        self._put(value.value, depth)
        self._out += b"R"

    def _call(self, value: Call, depth: int) -> None:
        self._global(value.function)
        tensor = value.tensor
        if tensor is not None and id(value) in self.lent:
            storage = StorageRef(tensor.dtype_name, tensor.nbytes // tensor.numel if tensor.numel else 0, _unread)
            none = (0,) * len(tensor.shape)
            self._tuple((_Lent(storage), 0, tensor.shape, none, *value.args[4:6]), depth)
        else:
            self._tuple(value.args, depth)
        self._out += b"R"

    def _storage(self, value: StorageRef, depth: int, read: StorageRef | None) -> None:
        key = self._keys.get(id(value))
        if key is None:
            key = self._keys[id(value)] = len(self.storages)
            self.storages.append(read)
            self._kept.append(value)
        name = _STORAGE_NAMES.get(value.dtype_name)
        if name is None:
            raise MalformedFile(f"a storage of {value.dtype_name} in TorchScript")
        kind = GlobalName(f"torch.{name}")
        self._tuple(("storage", kind, str(key), "cpu", value.nbytes // dtypes.ITEMSIZE[value.dtype_name]), depth)
        self._out += b"Q"


@dataclass(frozen=True, eq=False)
class _Lent:
    storage: StorageRef


def _unread() -> Any:
    raise AssertionError("a tensor that is put in afterwards")


def _one(text: bytes) -> Callable[[Writer, Any, int], None]:
    def write(writer: Writer, value: Any, depth: int) -> None:
        writer._out += text

    return write


def _float(writer: Writer, value: float, depth: int) -> None:
    writer._out += b"G" + struct.pack(">d", value)


def _bool(writer: Writer, value: bool, depth: int) -> None:
    writer._out += b"\x88" if value else b"\x89"


_WRITERS: dict[type, Callable[[Any, Any, int], None]] = {
    type(None): _one(b"N"),
    bool: _bool,
    int: Writer._int,
    float: _float,
    str: Writer._text,
    list: Writer._list,
    dict: Writer._dict,
    OrderedDict: Writer._ordered,
    tuple: Writer._tuple,
    Object: Writer._object,
    Call: Writer._call,
    Member: Writer._member,
    GlobalName: lambda writer, value, depth: writer._global(value.path),
    StorageRef: lambda writer, value, depth: writer._storage(value, depth, value),
    _Lent: lambda writer, value, depth: writer._storage(value.storage, depth, None),
}
