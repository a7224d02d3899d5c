"""Models that quantise what they are given by its range: all rows of a pass share one.

What one row is answered then depends on the rows beside it, so that requests can't share a pass. Made-up rows are often
alike in their range, so that trying says too little: the operators are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from torch import fx, nn

from score.architectures import torch_ao_layers
from score.architectures.fx_modules import Traced

_CELLS = ("lstm", "gru", "rnn_relu", "rnn_tanh")
_CONVOLUTIONS = tuple(f"{kind}{dims}d" for kind in ("conv", "conv_transpose") for dims in (1, 2, 3))
_OF_TORCH = frozenset(
    (
        *(f"quantized::{name}_dynamic" for name in ("linear", "linear_relu", *_CONVOLUTIONS)),
        *(f"quantized::quantized_{cell}_cell_dynamic" for cell in _CELLS),
        *(f"aten::quantized_{cell}_cell" for cell in _CELLS),
        *("aten::quantized_lstm", "aten::quantized_gru", "aten::quantize_per_tensor_dynamic"),
        *("aten::choose_qparams_optimized", "aten::_choose_qparams_per_tensor"),
        *("aten::fbgemm_linear_int8_weight", "aten::fbgemm_linear_int8_weight_fp32_activation"),
        *("quantized_decomposed::choose_qparams", "quantized_decomposed::choose_qparams_symmetric"),
        *("_quantized::linear_dynamic", "sparse::qlinear_dynamic", "sparse::qlinear_relu_dynamic"),
    )
)
_OF_ONNX = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"))


def shared(module: nn.Module) -> bool:
    """Whether rows of one pass share a range."""
    if torch_ao_layers.is_dynamic(module) or not _OF_ONNX.isdisjoint(getattr(module, "operators", ())):
        return True
    return any(not _OF_TORCH.isdisjoint(_operators(part)) for part in _programs(module))


def _programs(module: nn.Module) -> Iterable[nn.Module]:
    """The parts that are programs: of TorchScript the whole, whose graph has its parts in it."""
    return (module,) if isinstance(module, torch.jit.ScriptModule) else module.modules()


def _operators(part: nn.Module) -> Iterator[str]:
    """The operators of one program, as `aten::add`; nothing of a module that is none."""
    if isinstance(part, torch.jit.ScriptModule):
        yield from re.findall(r"\w+::\w+", str(part.inlined_graph))  # to walk its nodes takes seven times as long
    elif isinstance(part, fx.GraphModule):
        for node in part.graph.nodes:
            if isinstance(node.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
                yield "::".join(str(node.target).split(".")[:2])
    elif isinstance(part, Traced):
        yield from (name for name in _OF_TORCH if f"torch.ops.{name.replace('::', '.')}" in part._code)
