"""The policy for reading a pickle without running anything from it.

A name on the list below is done by a function of ours on checked arguments. Every other name becomes an inert stand-in
that remembers its class path and whatever the file puts into it. No object of the file's choosing is ever imported,
called, or given attributes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sized
from contextvars import ContextVar
from typing import Any

import torch

from score.errors import MalformedFile
from score.formats._pickle import joblib_arrays, numpy_arrays, pieces, rebuild, torchao
from score.formats._pickle.vm import hashable
from score.formats.base import GlobalName, OpaqueObject, TensorRef

# Classes and functions whose effect is known and is done here: nothing that is called runs code of a file.
_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): OrderedDict(_pairs_of(pairs)),
    "collections.defaultdict": lambda _factory=None, pairs=(): dict(_pairs_of(pairs)),
    "collections.Counter": lambda pairs=(): dict(_pairs_of(pairs)),
    "collections.deque": lambda items=(), _length=None: list(items),
    "builtins.set": lambda items=(): set(map(hashable, _list(items))),
    "builtins.frozenset": lambda items=(): frozenset(map(hashable, _list(items))),
    "builtins.list": lambda items=(): list(_list(items)),
    "builtins.dict": lambda pairs=(): dict(_pairs_of(pairs)),
    "builtins.tuple": lambda items=(): tuple(_list(items)),
    "builtins.complex": lambda real=0.0, imag=0.0: complex(float(real), float(imag)),
    "builtins.bytes": lambda data=b"", encoding="latin-1": numpy_arrays._raw(data),
    "builtins.bytearray": lambda data=b"", encoding="latin-1": bytearray(numpy_arrays._raw(data)),
    "_codecs.encode": lambda text, encoding="latin-1": _encode(text, encoding),
    "torch.Size": lambda sizes=(): tuple(_list(sizes)),
    "torch.device": lambda kind, index=None: str(kind) if index is None else f"{kind}:{index}",
    "torch.serialization._get_layout": lambda name: _attribute(str(name).removeprefix("torch.")),
    "torch._utils._rebuild_tensor": rebuild.rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild.rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild.rebuild_tensor_v3,
    "torch._utils._rebuild_meta_tensor_no_storage": rebuild.rebuild_meta,
    "torch._utils._rebuild_parameter": rebuild.rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild.rebuild_parameter,
    "torch._utils._rebuild_qtensor": rebuild.rebuild_quantized,
    "torch._utils._rebuild_sparse_tensor": rebuild.rebuild_sparse,
    "torch._utils._rebuild_device_tensor_from_numpy": lambda array, *_: array,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda tensor, *_: tensor,
    "torch.nn.parameter.Parameter": rebuild.rebuild_parameter,
    "torch.nn.parameter.Buffer": rebuild.rebuild_parameter,
    "torch.autograd.variable.Variable": rebuild.rebuild_parameter,
    "torch.jit._pickle.build_intlist": lambda items: items,
    "torch.jit._pickle.build_doublelist": lambda items: items,
    "torch.jit._pickle.build_boollist": lambda items: items,
    "torch.jit._pickle.build_tensorlist": lambda items: items,
    "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
    "numpy.dtype": numpy_arrays.dtype,
    "numpy.core.multiarray._reconstruct": numpy_arrays.reconstruct,
    "numpy.core.multiarray.scalar": numpy_arrays.scalar,
    "numpy.core.numeric._frombuffer": numpy_arrays.from_buffer,
    "dill._dill._create_array": numpy_arrays.of_dill,
}
# What makes a module of torch.fx again, from its attributes and the source of what it computes.
_FX = frozenset(f"torch.fx.graph_module.reduce_{kind}_module" for kind in ("graph", "package_graph", "deploy_graph"))
LOAD_FROM_BYTES = "torch.storage._load_from_bytes"
_inside: ContextVar[bool] = ContextVar("inside", default=False)
FREE_COPIES = 1_000_000  # values, and bytes of text; beyond them, twice as many as the pickle has bytes
# Mentioned as arguments of the functions above, and inert by themselves.
_INERT = {"numpy.ndarray", "torch.Tensor", "torch._tensor.Tensor", LOAD_FROM_BYTES, *joblib_arrays.WRAPPERS}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Restricted:
    """Stand-ins for everything unknown, for a pickle of `size` bytes; `unsafe` collects their class paths in the order
    they appear, `mentioned` all names."""

    def __init__(self, size: int) -> None:
        self.unsafe: dict[str, None] = {}
        self.mentioned: dict[str, None] = {}
        self._copies_left = FREE_COPIES + 2 * size

    def find(self, module: str, name: str) -> Any:
        module = _PYTHON_2.get(module, module).replace("numpy._core", "numpy.core")
        path = f"{module}.{name}"
        self.mentioned[path] = None
        if path in _KNOWN or path in _INERT or _is_storage(module, name) or _is_legacy_tensor(module, name):
            return GlobalName(path)
        if module == "torch" and (constant := _attribute(name)) is not None:
            return constant
        if not path.startswith(("__torch__.", "copyreg.")) and path != "torch._tensor._rebuild_from_type_v2":
            self.unsafe[path] = None
        return GlobalName(path)

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        path = function.path if isinstance(function, GlobalName) else type(function).__name__
        if path == "copyreg._reconstructor" and args:
            cls, state = args[0], args[2] if len(args) > 2 else None
            self._copying((state,))
            made = OpaqueObject(_path(cls))
            if isinstance(state, dict):
                made.mapping.update(state)
            elif isinstance(state, (list, tuple)):
                made.items.extend(state)
            return made
        if path in ("copyreg.__newobj__", "copyreg.__newobj_ex__") and args:
            self._copying((args,))
            return self.new(args[0], tuple(args[1:]), {})
        if path in _FX and (state := next((each for each in args if isinstance(each, dict)), None)) is not None:
            return OpaqueObject("torch.fx.graph_module.GraphModule", state=state)
        if path == LOAD_FROM_BYTES and len(args) == 1:
            return self._nested(args[0])
        if path == "torch._tensor._rebuild_from_type_v2" and len(args) > 2 and isinstance(args[2], tuple):
            return self._subclass(args)
        if path in _KNOWN:
            if not path.startswith("torch._utils."):
                self._copying(args)
            return _KNOWN[path](*args)
        if _is_legacy_tensor(*_split(path)):
            return rebuild.LegacyTensor()
        return OpaqueObject(path, args)

    def _subclass(self, args: tuple[Any, ...]) -> Any:
        """`_rebuild_from_type_v2(function, type, args, state)`: a tensor of a class of its own. What wraps others keeps
        these in its state."""
        made = self.call(args[0], args[2])
        if isinstance(made, OpaqueObject) and made.path == "torch._utils._rebuild_wrapper_subclass" and made.args:
            made = OpaqueObject(_path(made.args[0]), made.args[1:], state=args[3] if len(args) > 3 else None)
            self.unsafe[made.path] = None
        return made

    def _nested(self, data: Any) -> Any:
        """A tensor's storage, whose bytes are a file of torch.save's in the pickle; of one in such a one, nothing."""
        from score.formats._pickle.nested import load_from_bytes  # it reads pickles itself

        if _inside.get():
            raise MalformedFile("a tensor's bytes hold another tensor's bytes")
        token = _inside.set(True)
        try:
            found = load_from_bytes(data)
        finally:
            _inside.reset(token)
        self.unsafe.update(dict.fromkeys(found.unsafe))
        return found.value

    def follows(self, target: Any, take: Callable[[int], Any]) -> Any:
        """What is in a target's place, once it is built: the array whose bytes come next in the stream."""
        found = joblib_arrays.array(target, take) if joblib_arrays.is_wrapper(target) else None
        return target if found is None else numpy_arrays.ArrayShell(found)

    def _copying(self, values: Iterable[Any]) -> None:
        """A list or text that the file has once may be copied by every instruction: all copies together are bounded."""
        self._copies_left -= sum(len(each) for each in values if isinstance(each, Sized))
        if self._copies_left < 0:
            raise MalformedFile("the pickle copies the same values over and over")

    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> Any:
        path = _path(cls)
        if path in _KNOWN or _is_legacy_tensor(*_split(path)):
            return self.call(cls, args)
        self._copying((kwargs,))
        return OpaqueObject(path, args, {str(key): value for key, value in kwargs.items()})

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, OpaqueObject):
            target.state = state
        elif isinstance(target, (numpy_arrays.DtypeShell, numpy_arrays.ArrayShell)):
            target.build(state)
        elif isinstance(target, rebuild.LegacyTensor):
            if isinstance(state, tuple) and len(state) == 4:
                target.ref = rebuild.strided(*state)
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and "_metadata" in state:
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # as nn.Module.state_dict leaves it

    def extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(items)
        elif isinstance(target, OpaqueObject):
            target.items.extend(items)
        else:
            raise TypeError(f"items for a {type(target).__name__}")

    def update(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, OpaqueObject):
            target.mapping.update(pairs)
        else:
            raise TypeError(f"keys for a {type(target).__name__}")


def settled(value: Any, depth: int = 3) -> Any:
    """A value that the machine had to fill in later, as what it turned out to be. A parameter of a parameter is as deep
    as it gets; a file may say that one holds itself."""
    if isinstance(value, rebuild.LegacyTensor):
        return value.ref
    if isinstance(value, numpy_arrays.ArrayShell):
        return value.ref() or value.objects
    if torchao.is_one(value):
        return torchao.numbers(value) or value
    if pieces.is_cut(value):
        return _whole(value)
    if (
        depth
        and isinstance(value, OpaqueObject)
        and isinstance(value.state, tuple)
        and value.path.endswith((".Parameter", ".Variable"))
    ):
        found = (settled(part, depth - 1) for part in value.state[:8])
        tensors = [part for part in found if isinstance(part, TensorRef)]
        return tensors[0] if tensors else value
    return value


def _whole(value: OpaqueObject) -> Any:
    """A distributed tensor as a tensor, where all of it is here."""
    try:
        return pieces.joined([pieces.cut(value, None)]) or value
    except MalformedFile:
        return value


def _pairs_of(pairs: Any) -> Any:
    """What a dict is made of: another, or a list of pairs."""
    if isinstance(pairs, dict):
        return pairs
    return [(hashable(key), value) for key, value in _list(pairs)]


def _list(items: Any) -> Any:
    if isinstance(items, (list, tuple, set, frozenset, dict)):
        return items
    raise TypeError(f"a collection made from a {type(items).__name__}")


def _encode(text: Any, encoding: Any) -> bytes:
    if isinstance(text, str) and str(encoding) in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        return text.encode(str(encoding))
    raise TypeError("bytes in an unknown encoding")


def _attribute(name: str) -> Any:
    """`torch.<name>` if it is one of torch's immutable constants: a dtype, layout, memory format or quantisation."""
    kinds = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)
    value = vars(torch).get(name)  # not getattr, which imports what torch has lazily
    return value if isinstance(value, kinds) else None


# What makes a class that a pickle brings along, of (its type, its name, its bases, a mapping with its module, ...).
_MAKE_CLASS = frozenset(("cloudpickle.cloudpickle._make_skeleton_class", "dill._dill._create_type"))


def _path(value: Any) -> str:
    if isinstance(value, OpaqueObject) and value.path in _MAKE_CLASS and len(value.args) > 3:
        _, name, _, said = value.args[:4]
        module = said.get("__module__") if isinstance(said, dict) else None
        return f"{module or '__main__'}.{name}"
    return value.path if isinstance(value, GlobalName) else type(value).__name__


def _split(path: str) -> tuple[str, str]:
    module, _, name = path.rpartition(".")
    return module, name


def _is_storage(module: str, name: str) -> bool:
    return name in rebuild.STORAGE_DTYPES and module in ("torch", "torch.cuda", "torch.storage")


def _is_legacy_tensor(module: str, name: str) -> bool:
    return name in rebuild.LEGACY_TENSOR_DTYPES and module in ("torch", "torch.cuda")
