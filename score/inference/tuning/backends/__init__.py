"""The ways to run a model, a file each: `NAME`, `missing(device)`, `build(subject)`.

To add one, add its file to `BACKENDS`. `missing` says why it can't be here, or None; `build` gives what runs the
tensors of the inputs, or raises `NotPossible`. What its `keep(folder)` writes, a later start loads by `load(folder)`,
which may need less, as `missing_to_load(device)` says: an image that serves has no compiler. `CODE` names those of
these files that are native code, and are loaded only where they are trusted; `PACKAGE` is what computes beside
torch, and `OWN_THREADS` says that it does so with threads of its own.
"""

from collections.abc import Mapping
from types import ModuleType

from score.inference.tuning.backends import (
    bfloat16,
    bfloat16_autocast,
    channels_last,
    cuda_graphs,
    eager,
    float16,
    float16_autocast,
    folded,
    inductor,
    int8_dynamic,
    onnxruntime,
    openvino,
    openvino_bfloat16,
    openvino_float16,
)

BACKENDS: Mapping[str, ModuleType] = {
    each.NAME: each
    for each in (
        eager, channels_last, folded, cuda_graphs, openvino, onnxruntime, bfloat16, bfloat16_autocast, float16,
        float16_autocast, openvino_bfloat16, openvino_float16, int8_dynamic, inductor,
    )
}  # fmt: skip
