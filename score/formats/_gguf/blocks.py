"""The numbers that a GGUF tensor's blocks stand for, as float32.

A row is cut into blocks of 32 or 256 elements, and each has its own scale. The layouts are those of ggml's
`ggml-common.h`; of those, the ones that need a table of a codebook are left to the package `gguf`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from score.errors import QuantisedWeights

Blocks = np.ndarray  # uint8 [N, bytes of a block]
Numbers = np.ndarray  # float32 [N, elements of a block]
AT_ONCE = 1 << 14  # blocks; what is computed on the way stays in the cache


@dataclass(frozen=True)
class Kind:
    """How the elements of a tensor are written: `elements` in each block of `nbytes`. `read` is None where only the
    package `gguf` can."""

    name: str
    elements: int
    nbytes: int
    read: Callable[[Blocks], Numbers] | None = None


def _halves(blocks: Blocks, at: int) -> Numbers:
    """The float16 at a byte of each block: [N, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(part: np.ndarray) -> np.ndarray:
    """The lower halves of some bytes, then the upper ones: [..., B] to [..., 2 x B]."""
    return np.concatenate([part & 15, part >> 4], axis=-1)


def _bits(part: np.ndarray, each: int) -> np.ndarray:
    """The lowest `each` bits of all bytes, then the next ones: [N, B] to [N, 8 / each, B]."""
    shifts = np.arange(0, 8, each, dtype=np.uint8)[None, :, None]
    return (part[:, None] >> shifts) & ((1 << each) - 1)


def _q4_0(blocks: Blocks) -> Numbers:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> Numbers:
    made: Numbers = _halves(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _halves(blocks, 2)
    return made


def _fifth(part: np.ndarray) -> np.ndarray:
    """32 bits, one an element, as what they add: [N, 4] to [N, 32]."""
    return np.unpackbits(part, axis=1, bitorder="little") << 4


def _q5_0(blocks: Blocks) -> Numbers:
    made: Numbers = _halves(blocks, 0) * ((_nibbles(blocks[:, 6:]) | _fifth(blocks[:, 2:6])).astype(np.float32) - 16)
    return made


def _q5_1(blocks: Blocks) -> Numbers:
    values = (_nibbles(blocks[:, 8:]) | _fifth(blocks[:, 4:8])).astype(np.float32)
    made: Numbers = _halves(blocks, 0) * values + _halves(blocks, 2)
    return made


def _q8_0(blocks: Blocks) -> Numbers:
    return _halves(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _in_groups(values: np.ndarray, scales: Numbers, least: Numbers | None = None) -> Numbers:
    """Values times the scale of their group, less its minimum; groups are equal runs of a block."""
    count = scales.shape[1]
    made = values.reshape(len(values), count, -1).astype(np.float32) * scales[:, :, None]
    if least is not None:
        made -= least[:, :, None]
    flat: Numbers = made.reshape(len(values), -1)
    return flat


def _q2_k(blocks: Blocks) -> Numbers:
    scales, scale, least = blocks[:, :16], _halves(blocks, 80), _halves(blocks, 82)
    values = np.concatenate([_bits(blocks[:, at : at + 32], 2).reshape(-1, 128) for at in (16, 48)], axis=1)
    return _in_groups(values, scale * (scales & 15), least * (scales >> 4))


def _q3_k(blocks: Blocks) -> Numbers:
    high = _bits(blocks[:, :32], 1).reshape(-1, 256)
    low = np.concatenate([_bits(blocks[:, at : at + 32], 2).reshape(-1, 128) for at in (32, 64)], axis=1)
    packed = blocks[:, 96:108]
    scales = _nibbles(packed[:, :8]) | (_bits(packed[:, 8:], 2).reshape(-1, 16) << 4)
    values = low.astype(np.float32) - 4 * (1 - high.astype(np.float32))
    return _in_groups(values, _halves(blocks, 108) * (scales.astype(np.float32) - 32))


def _six_bits(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 8 scales and 8 minima of a block, of 6 bits each: [N, 12] to two of [N, 8]."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    return scales, np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)


def _four_of(part: np.ndarray) -> np.ndarray:
    """Nibbles in runs of 32 bytes: [N, 128] to [N, 256]."""
    return _nibbles(part.reshape(-1, 4, 32)).reshape(-1, 256)


def _q4_k(blocks: Blocks) -> Numbers:
    scales, least = _six_bits(blocks[:, 4:16])
    return _in_groups(_four_of(blocks[:, 16:]), _halves(blocks, 0) * scales, _halves(blocks, 2) * least)


def _q5_k(blocks: Blocks) -> Numbers:
    scales, least = _six_bits(blocks[:, 4:16])
    values = _four_of(blocks[:, 48:]) | (_bits(blocks[:, 16:48], 1).reshape(-1, 256) << 4)
    return _in_groups(values, _halves(blocks, 0) * scales, _halves(blocks, 2) * least)


def _q6_k(blocks: Blocks) -> Numbers:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
    high = np.concatenate([_bits(blocks[:, at : at + 32], 2).reshape(-1, 128) for at in (128, 160)], axis=1)
    values = (low | (high << 4)).astype(np.float32) - 32
    return _in_groups(values, _halves(blocks, 208) * blocks[:, 192:208].view(np.int8))


# What the 16 codes of the IQ4 kinds mean.
_UNEVEN = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def _iq4_nl(blocks: Blocks) -> Numbers:
    made: Numbers = _halves(blocks, 0) * _UNEVEN[_nibbles(blocks[:, 2:])]
    return made


def _iq4_xs(blocks: Blocks) -> Numbers:
    high = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    scales = (low | (high.astype(np.uint8) << 4)).astype(np.float32) - 32
    values = _UNEVEN[_nibbles(blocks[:, 8:].reshape(-1, 8, 16))]
    return _in_groups(values, _halves(blocks, 0) * scales)


_IN_FULL = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
# By the number that the file has for it. Sources: ggml.h, `enum ggml_type`; ggml-common.h, the sizes.
KINDS: dict[int, Kind] = {
    0: Kind("F32", 1, 4), 1: Kind("F16", 1, 2), 30: Kind("BF16", 1, 2), 28: Kind("F64", 1, 8),
    24: Kind("I8", 1, 1), 25: Kind("I16", 1, 2), 26: Kind("I32", 1, 4), 27: Kind("I64", 1, 8),
    2: Kind("Q4_0", 32, 18, _q4_0), 3: Kind("Q4_1", 32, 20, _q4_1),
    6: Kind("Q5_0", 32, 22, _q5_0), 7: Kind("Q5_1", 32, 24, _q5_1), 8: Kind("Q8_0", 32, 34, _q8_0),
    10: Kind("Q2_K", 256, 84, _q2_k), 11: Kind("Q3_K", 256, 110, _q3_k), 12: Kind("Q4_K", 256, 144, _q4_k),
    13: Kind("Q5_K", 256, 176, _q5_k), 14: Kind("Q6_K", 256, 210, _q6_k),
    20: Kind("IQ4_NL", 32, 18, _iq4_nl), 23: Kind("IQ4_XS", 256, 136, _iq4_xs),
    16: Kind("IQ2_XXS", 256, 66), 17: Kind("IQ2_XS", 256, 74), 22: Kind("IQ2_S", 256, 82),
    18: Kind("IQ3_XXS", 256, 98), 21: Kind("IQ3_S", 256, 110), 19: Kind("IQ1_S", 256, 50), 29: Kind("IQ1_M", 256, 56),
    34: Kind("TQ1_0", 256, 54), 35: Kind("TQ2_0", 256, 66), 39: Kind("MXFP4", 32, 17), 40: Kind("NVFP4", 64, 36),
}  # fmt: skip
DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip


def numbers(content: np.ndarray, number: int) -> np.ndarray:
    """The float32 that blocks stand for: uint8 of whole blocks to one row. Raises `QuantisedWeights` for a kind that
    only the package `gguf` reads, where that is not installed."""
    kind = KINDS[number]
    read = kind.read or _by_gguf(number, kind.name)
    blocks = content.reshape(-1, kind.nbytes)
    made = np.empty((len(blocks), kind.elements), np.float32)
    for start in range(0, len(blocks), AT_ONCE):
        made[start : start + AT_ONCE] = read(blocks[start : start + AT_ONCE])
    return made.reshape(-1)


def _by_gguf(number: int, name: str) -> Callable[[Blocks], Numbers]:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise QuantisedWeights(
            f"its weights are of the kind {name}, which the package gguf reads, and it is not installed",
            hint="pip install gguf, or take the file in another kind, such as Q4_K_M.",
        ) from None

    def read(blocks: Blocks) -> Numbers:
        found: Numbers = quants.dequantize(blocks, GGMLQuantizationType(number)).reshape(len(blocks), -1)
        return found

    return read
