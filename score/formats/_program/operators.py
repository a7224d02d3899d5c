"""The operators that a program may be made of without being trusted.

A program is code: `aten::from_file` reads any file, `aten::save` writes one. So what may be called is a list of what is
allowed, derived from torch's own registry of schemas by what an operator takes and gives. The rule, for `aten`:

- it takes tensors, numbers and booleans, lists of them, and dtypes, layouts and memory formats, and gives such;
- it writes to no tensor but its own first ones, as `relu_` does, and never into one that it is given as `out`;
- a string it takes only where that is one of a few words (`_WORDS`), and a device only where it is of a new tensor
  (`_PLACED`), which the reader sets to the one that is served on;
- a name that begins with an underscore, torch's mark of what is internal, is in `_INTERNAL`;
- it changes nothing that outlives the call, and hands out nothing that was never written (`_STATEFUL`).

TorchScript has, beside these, functions of Python's own values (`_VALUES`). What is not from `aten` is listed by name.
`tests/formats/operators.txt` is what comes of it with the pinned torch; a test holds the two together. How large a
result is, is not an operator's to say: `score.inference.confine` bounds the process.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Set
from functools import cache
from typing import Any

import torch

Operator = tuple[str, str]  # its name with the namespace, and its overload

_PLAIN = re.compile(r"(List|Optional)\[(.*)\]\Z")
_TENSORS = frozenset({"Tensor", "int", "float", "bool", "number", "complex", "SymInt", "NoneType"})
_OF_VALUES = _TENSORS | {"str", "t", "t1", "t2", "tVal", "Any", "AnyEnumType"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INTERNAL = _words(
    """
    __and__ __or__ __xor__ __iand__ __ior__ __ixor__ __lshift__ __rshift__ _adaptive_avg_pool2d
    _adaptive_avg_pool3d _addmm_activation _aminmax _assert_async _assert_scalar
    _assert_tensor_metadata _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short
    _cdist_forward _conj _conj_physical _convolution _convolution_mode _dim_arange _embedding_bag
    _embedding_bag_forward_only _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _functional_assert_async
    _functional_assert_scalar _functional_sym_constrain_range _functional_sym_constrain_range_for_size _fused_rms_norm
    _grouped_mm _int_mm _is_all_true _is_any_true _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex
    _linalg_svd _local_scalar_dense _log_softmax _logcumsumexp _masked_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view
    _pack_padded_sequence _pad_circular _pad_enum _pad_packed_sequence _pdist_forward _prelu_kernel _reshape_alias
    _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_fused_attention_overrideable _shape_as_tensor
    _softmax _stack _to_copy _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _trilinear _unique2
    _unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_lanczos2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_int8pack_mm _weight_norm
    _weight_norm_interface
    """
)
_WORDS = _words(
    """
    _assert_async _assert_scalar _convolution_mode _functional_assert_async _functional_assert_scalar _linalg_eigh
    _linalg_svd conv1d conv2d conv3d div div_ divide divide_ einsum fft_fft fft_fft2 fft_fftn fft_hfft fft_hfft2
    fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft
    fft_rfft2 fft_rfftn gelu gelu_ index_reduce index_reduce_ linalg_cond linalg_eigh linalg_eigvalsh linalg_lstsq
    linalg_matrix_norm linalg_norm linalg_qr linalg_svd linalg_svdvals meshgrid nanquantile pad pad_sequence quantile
    scatter scatter_ scatter_reduce scatter_reduce_ searchsorted segment_reduce stft
    """
)
_PLACED = _words(
    """
    _assert_tensor_metadata _to_copy arange as_tensor bartlett_window blackman_window eye fft_fftfreq fft_rfftfreq
    full full_like hamming_window hann_window kaiser_window linspace logspace new_full new_ones new_zeros ones
    ones_like range scalar_tensor tensor to tril_indices triu_indices zeros zeros_like normal rand rand_like randint
    randint_like randn randn_like randperm empty empty_like empty_permuted new_empty
    """
)
# Torch fills what these allocate with whatever lay there before only where nothing writes to it; an exporter writes
# `empty` and then `fill`, so they come as zeros: see `ZEROED`.
ZEROED = {"empty": "zeros", "empty_like": "zeros_like", "new_empty": "new_zeros", "empty_permuted": "zeros"}
_STATEFUL = _words(
    """
    set_ resize_ resize_as_ resize_as_sparse_ resize set set_data set_source_Storage rename_ requires_grad_
    retain_grad backward from_file save is_pinned pin_memory manual_seed seed initial_seed wait record_stream
    share_memory_ empty_strided new_empty_strided empty_quantized as_strided_ as_strided_scatter unsafe_chunk
    mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight quantized_lstm quantized_gru hash id sparse_resize_
    sparse_resize_and_clear_ swap_ use_deterministic_algorithms  factorial grad get_gradients
    retains_grad output_nr slice_inverse sparse_resize sparse_resize_and_clear is_distributed
    """
)
_VALUES = _words(
    """
    Bool Complex ComplexImplicit Delete Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__
    __derive_index __getitem__ __iand__ __interpolate __ior__ __is__ __isnot__ __ixor__ __lshift__ __not__ __or__
    __range_length __round_to_zero_floordiv __rshift__ __upsample __upsample_bilinear __upsample_nearest __xor__
    _get_tracing_state _infer_size _list_to_tensor _no_grad_embedding_renorm_ _no_grad_fill_ _no_grad_normal_
    _no_grad_uniform_ _no_grad_zero_ _set_item _tensor_to_list _unwrap_optional add add_ all any append capitalize
    ceil clear copy count dict divmod endswith eq extend find floor floordiv format fmod ge get gt index insert items
    join keys le len list lower lstrip lt mathremainder max min mod mul mul_ ne neg not ord ones_like percentFormat
    pop popitem pow remainder remove replace reverse rfind round rstrip setdefault slice sort sorted split splitlines
    sqrt startswith strip sub update upper values warn zfill degrees radians is_floating_point acos acosh asin asinh
    atan atan2 atanh copysign cos cosh erf erfc exp expm1 fabs frexp gamma gcd isfinite isinf isnan ldexp lgamma log
    log10 log1p modf sin sinh tan tanh truediv div abs trunc bin complex device is_autocast_enabled
    is_autocast_cpu_enabled is_grad_enabled is_scripting is_tracing element_size numel dim size stride storage_offset
    is_contiguous is_complex get_device cpu cuda str tensor as_tensor
    """
)
_PRIM = _words(
    """
    NumToTensor RaiseException TupleIndex TupleUnpack Uninitialized abs data device dtype EnumName EnumValue is_cpu
    is_cuda is_meta is_mkldnn is_nested is_quantized is_sparse itemsize layout max min name ModuleContainerIndex
    rangelist requires_grad StringIndex tolist type unchecked_cast unchecked_unwrap_optional ConstantChunk
    """
)
_QUANTIZED = _words(
    """
    add add_relu add_scalar add_scalar_relu batch_norm batch_norm1d batch_norm2d batch_norm2d_relu batch_norm3d
    batch_norm3d_relu cat cat_relu celu clamp conv1d conv1d_dynamic conv1d_prepack conv1d_relu conv1d_unpack conv2d
    conv2d_add conv2d_add_relu conv2d_dynamic conv2d_prepack conv2d_relu conv2d_unpack conv3d conv3d_dynamic
    conv3d_prepack conv3d_relu conv3d_unpack conv_transpose1d conv_transpose1d_dynamic conv_transpose1d_prepack
    conv_transpose1d_unpack conv_transpose2d conv_transpose2d_dynamic conv_transpose2d_prepack conv_transpose2d_unpack
    conv_transpose3d conv_transpose3d_dynamic conv_transpose3d_prepack conv_transpose3d_unpack dropout elu
    embedding_4bit embedding_bag_4bit embedding_bag_byte embedding_bag_prepack embedding_bag_unpack embedding_byte
    group_norm hardswish instance_norm layer_norm leaky_relu linear linear_dynamic linear_dynamic_fp16
    linear_leaky_relu linear_prepack linear_prepack_fp16 linear_relu linear_relu_dynamic linear_relu_dynamic_fp16
    linear_tanh linear_unpack linear_unpack_fp16 make_quantized_cell_params make_quantized_cell_params_dynamic
    make_quantized_cell_params_fp16 matmul max_pool1d max_pool2d mul mul_relu mul_scalar mul_scalar_relu prelu
    quantized_gru_cell_dynamic quantized_lstm_cell_dynamic quantized_rnn_relu_cell_dynamic
    quantized_rnn_tanh_cell_dynamic relu6 sigmoid softmax threshold
    """
)
_BACKENDS = ("miopen", "mkldnn", "cudnn", "fbgemm", "to_mkldnn")  # of one machine, and trusting what they are given
_OTHERS = {  # namespace: the operators, and the module that registers them
    "torchvision": (("nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"), "torchvision"),
    "quantized_decomposed": (
        (
            *("quantize_per_tensor", "dequantize_per_tensor", "quantize_per_channel", "dequantize_per_channel"),
            *("choose_qparams", "choose_qparams_symmetric", "choose_qparams_per_token"),
            *("quantize_per_token", "dequantize_per_token"),
        ),
        "torch.ao.quantization.fx._decomposed",
    ),
}


@cache
def functional() -> frozenset[Operator]:
    """The operators of torch.export's graphs."""
    return frozenset(_key(schema) for schema in _schemas() if _allowed(schema, scripted=False))


@cache
def scripted() -> frozenset[Operator]:
    """The operators of TorchScript, which also has its own for Python's values."""
    return frozenset(_key(schema) for schema in _schemas() if _allowed(schema, scripted=True))


@cache
def scripted_names() -> frozenset[str]:
    """`aten::add` and the like: what TorchScript's text may call. Its overload is seen once torch has resolved it."""
    return frozenset(name for name, _ in scripted())


@cache
def registered_names() -> frozenset[str]:
    """The bare name of every operator that torch has, allowed or not."""
    return frozenset(schema.name.partition("::")[2] for schema in _schemas())


def resolve(name: str, overload: str) -> Any:
    """The operator itself. Only for what `functional` has."""
    namespace, _, bare = name.partition("::")
    return getattr(getattr(getattr(torch.ops, namespace), bare), overload or "default")


def make_known(namespace: str) -> None:
    """Have a namespace outside of `aten` registered, if what registers it is installed."""
    if namespace in _OTHERS:
        try:
            importlib.import_module(_OTHERS[namespace][1])
        except ImportError:
            return
        for found in (functional, scripted, scripted_names, registered_names):
            found.cache_clear()


def _schemas() -> list[Any]:
    found: list[Any] = torch._C._jit_get_all_schemas()
    return found


def _key(schema: Any) -> Operator:
    return schema.name, schema.overload_name


def _allowed(schema: Any, scripted: bool) -> bool:
    namespace, _, name = schema.name.partition("::")
    if namespace == "prim":
        return scripted and name in _PRIM
    if namespace == "quantized":
        return name in _QUANTIZED
    if namespace in _OTHERS:
        return name in _OTHERS[namespace][0]
    if namespace != "aten" or name in _STATEFUL or "backward" in name or name.startswith(_BACKENDS):
        return False
    if scripted and name in _VALUES:
        return all(_is_kind(str(item.type), _OF_VALUES | {"Device"}) for item in (*schema.arguments, *schema.returns))
    if name.startswith("_") and name not in _INTERNAL:
        return False
    if any(item.is_out or (item.kwarg_only and _is_written(item)) for item in schema.arguments):
        return False
    kinds = _TENSORS | ({"str"} if name in _WORDS else set()) | ({"Device"} if name in _PLACED else set())
    return all(
        _is_kind(str(item.type), kinds) or str(item.type) == "Optional[Generator]"  # which nothing can give
        for item in (*schema.arguments, *schema.returns)
    )


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _is_kind(kind: str, allowed: Set[str]) -> bool:
    if kind.startswith("Dict["):
        return all(_is_kind(part, allowed) for part in kind[5:-1].split(", "))
    if kind.startswith("Tuple["):
        return all(_is_kind(part, allowed) for part in kind[6:-1].split(", "))
    inner = _PLAIN.match(kind)
    return _is_kind(inner[2], allowed) if inner else kind in allowed
