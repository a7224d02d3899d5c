"""What a model computes on: its name, and those of its instructions that decide which way is quickest.

Source: Linux, /proc/cpuinfo; arch/x86/include/asm/cpufeatures.h, and Documentation/arch/arm64/elf_hwcaps.rst.
"""

import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
HALF = frozenset(("avx512_fp16", "amx_fp16", "asimdhp"))  # products of float16
_FLAGS = HALF | {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm"}


def name(device: torch.device) -> str:
    """The GPU's name, or the processor's and what it can do."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    said = _said()
    if not said:
        return platform.processor() or platform.machine()
    return f"{said.get('model name', platform.machine())} ({' '.join(sorted(flags()))})"


def flags() -> frozenset[str]:
    """The instructions of the processor, of those that count here; none where the kernel does not say."""
    said = _said()
    return _FLAGS & set((said.get("flags") or said.get("Features") or "").split())


def _said() -> dict[str, str]:
    """Of the first of its cores."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
