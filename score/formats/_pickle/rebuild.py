"""From a storage in a file to tensors: every `torch._utils._rebuild_*` function, done without calling it.

Shapes, strides and offsets come from the file, so each is checked against the storage before torch sees it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from score.errors import MalformedFile, VersionTooOld
from score.formats import dtypes
from score.formats._io.source import Source
from score.formats.base import GlobalName, TensorRef

_NAMES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64",
    "QUInt8": "quint8", "QInt8": "qint8", "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
    "Untyped": "uint8",
}  # fmt: skip
STORAGE_DTYPES = {f"{name}Storage": dtype for name, dtype in _NAMES.items()}
LEGACY_TENSOR_DTYPES = {f"{name}Tensor": dtype for name, dtype in _NAMES.items() if name != "Untyped"}


MAX_DIMENSIONS = 64  # torch's own limit
# That torch will make none any more is nothing that whoever serves one could mend.
warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel and other quantized")


@dataclass(eq=False)
class StorageRef:
    """A run of bytes in a file that tensors view. `fetch` brings it in, once; `content` gives the same bytes without
    torch, where they lie in the file as they are."""

    dtype_name: str
    nbytes: int
    fetch: Callable[[], torch.UntypedStorage] = field(repr=False)
    content: Callable[[], memoryview] | None = field(default=None, repr=False)

    @classmethod
    def within(cls, source: Source, dtype_name: str, offset: int, nbytes: int) -> StorageRef:
        """A range of a file as it is."""
        span = (offset, nbytes)
        return cls(dtype_name, nbytes, partial(source.storage, *span), partial(source.content, *span))

    @cached_property
    def untyped(self) -> torch.UntypedStorage:
        return self.fetch()


@dataclass(eq=False)
class LegacyTensor:
    """A tensor as torch before 0.2 pickled it: made empty, then BUILD gives (storage, offset, size, stride)."""

    ref: TensorRef | None = None


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62:
        return value
    raise MalformedFile(f"a tensor has {value!r} for a size, a stride or an offset")


def _wholes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise MalformedFile("a tensor's size or stride is not a short list of numbers")
    return tuple(map(_whole, values))


def strided(storage: Any, offset: Any, size: Any, stride: Any, *, dtype: str = "") -> TensorRef:
    """A tensor of `size` and `stride` (in elements), `offset` elements into `storage`.

    Raises `MalformedFile` if it would reach past the storage.
    """
    if not isinstance(storage, StorageRef):
        raise MalformedFile("a tensor's storage is not a storage")
    dtype, shape, steps, start = dtype or storage.dtype_name, _wholes(size), _wholes(stride), _whole(offset)
    if len(shape) != len(steps):
        raise MalformedFile(f"a tensor has {len(shape)} sizes and {len(steps)} strides")
    numel = math.prod(shape)
    last = start + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    itemsize = dtypes.ITEMSIZE[dtype]
    if numel and (last + 1) * itemsize > storage.nbytes:
        raise MalformedFile(
            f"a tensor of size {list(shape)} and stride {list(steps)} reaches byte {(last + 1) * itemsize:,} "
            f"of a storage of {storage.nbytes:,}"
        )

    def load() -> torch.Tensor:
        return torch.empty(0, dtype=dtypes.of(dtype)).set_(storage.untyped, start, shape, steps)  # type: ignore[call-overload]

    content = storage.content
    dense = content is not None and list(steps) == row_major(shape)
    first, nbytes = start * itemsize, numel * itemsize
    lies = (lambda: content()[first : first + nbytes]) if dense else None  # type: ignore[misc]
    return TensorRef(dtype, shape, nbytes, storage, load, content=lies)


def row_major(shape: Sequence[Any]) -> list[int]:
    """The strides of a dense tensor, in elements. What is no size is left for `strided` to refuse; more of them than a
    tensor may have are refused before numbers of as many digits are multiplied."""
    if len(shape) > MAX_DIMENSIONS:
        raise MalformedFile(f"a tensor of {len(shape):,} dimensions")
    strides, step = [0] * len(shape), 1
    for axis in range(len(shape) - 1, -1, -1):
        strides[axis] = step
        step *= shape[axis] if isinstance(shape[axis], int) and shape[axis] > 0 else 1
    return strides


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRef:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`: what follows is requires_grad, hooks and metadata."""
    return _viewed(strided(storage, offset, size, stride), rest[2] if len(rest) > 2 else None)


def _viewed(ref: TensorRef, metadata: Any) -> TensorRef:
    """The bits that say a tensor is its bytes' conjugate or negative: `torch._utils.set_tensor_metadata`."""
    if not isinstance(metadata, dict) or not (metadata.get("conj") or metadata.get("neg")):
        return ref

    def load() -> torch.Tensor:
        tensor = ref.load()
        tensor = tensor.conj() if metadata.get("conj") and tensor.is_complex() else tensor
        return torch._neg_view(tensor) if metadata.get("neg") else tensor

    return replace(ref, load=load, content=None)


def rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any, *_rest: Any
) -> TensorRef:
    """`_rebuild_tensor_v3`: the dtype is given beside an untyped storage."""
    if isinstance(dtype, GlobalName) and dtype.path.startswith("torch."):
        raise VersionTooOld(f"the file has tensors of {dtype.path}, which torch {torch.__version__} does not know")
    if not isinstance(dtype, torch.dtype):
        raise MalformedFile("a tensor's dtype is not a dtype")
    return strided(storage, offset, size, stride, dtype=dtypes.name_of(dtype))


def rebuild_meta(dtype: Any, size: Any, stride: Any, *_rest: Any) -> TensorRef:
    """`_rebuild_meta_tensor_no_storage`: a tensor that was saved from the meta device, with a shape and no values."""
    if not isinstance(dtype, torch.dtype):
        raise MalformedFile("a tensor's dtype is not a dtype")
    shape = _wholes(size)

    def load() -> torch.Tensor:
        raise MalformedFile("a tensor has no values: it was saved from the meta device, before its weights were loaded")

    return TensorRef(dtypes.name_of(dtype), shape, 0, object(), load, layout="meta")


def rebuild_parameter(data: Any, *_rest: Any) -> Any:
    """`_rebuild_parameter`, `Parameter(data)` and `Variable(data)`: the tensor itself."""
    return data


def rebuild_quantized(storage: Any, offset: Any, size: Any, stride: Any, quantizer: Any, *_rest: Any) -> TensorRef:
    """`_rebuild_qtensor`: per tensor (scale, zero point) or per channel (scales, zero points, axis)."""
    raw = strided(storage, offset, size, stride)
    scheme, *params = quantizer

    def load() -> torch.Tensor:
        if scheme == torch.per_tensor_affine:
            scale, zero_point = params
            empty = torch._empty_affine_quantized([0], scale=scale, zero_point=zero_point, dtype=raw.dtype)
        else:
            scales, zero_points, axis = params
            empty = torch._empty_per_channel_affine_quantized(
                raw.shape, scales=loaded(scales), zero_points=loaded(zero_points), axis=axis, dtype=raw.dtype
            )
        return empty.set_(storage.untyped, _whole(offset), raw.shape, _wholes(stride))  # type: ignore[call-overload]

    return TensorRef(raw.dtype_name, raw.shape, raw.nbytes, storage, load, layout="quantized")


def rebuild_sparse(layout: Any, data: Any) -> TensorRef:
    """`_rebuild_sparse_tensor`: COO as (indices, values, size, is_coalesced?), CSR and kin as (compressed, plain,
    values, size). Indices are validated by torch when the tensor is built."""
    coo = layout == torch.sparse_coo
    parts, size, rest = (data[:2], data[2], data[3:]) if coo else (data[:3], data[3], ())
    shape, values = _wholes(size), parts[-1]
    if not all(isinstance(part, (TensorRef, torch.Tensor)) for part in parts):
        raise MalformedFile("a sparse tensor's parts are not tensors")

    def load() -> torch.Tensor:
        brought: Any = [loaded(part) for part in parts]
        try:
            if coo:
                coalesced = bool(rest[0]) if rest and rest[0] is not None else None
                return torch.sparse_coo_tensor(
                    brought[0], brought[1], shape, check_invariants=True, is_coalesced=coalesced
                )
            return torch.sparse_compressed_tensor(
                brought[0], brought[1], brought[2], shape, layout=layout, check_invariants=True
            )
        except (RuntimeError, ValueError) as error:
            raise MalformedFile(f"a sparse tensor's parts do not fit together: {error}") from None

    nbytes = sum(part.nbytes for part in parts)
    return TensorRef(values.dtype_name, shape, nbytes, object(), load, layout=str(layout).removeprefix("torch."))


def loaded(value: Any) -> torch.Tensor:
    """A tensor that is part of another: brought in, unless it already is."""
    if isinstance(value, TensorRef):
        return value.load()
    if isinstance(value, torch.Tensor):
        return value
    raise MalformedFile(f"a {type(value).__name__} where a tensor belongs")


def storage_dtype(kind: Any) -> str:
    """The dtype of a storage class named in a file: `torch.FloatStorage`, `torch.cuda.HalfStorage`..."""
    if isinstance(kind, GlobalName) and kind.path.rpartition(".")[2] in STORAGE_DTYPES:
        return STORAGE_DTYPES[kind.path.rpartition(".")[2]]
    raise MalformedFile(f"a storage is of an unknown type, {kind!r}")
