"""Recordings as a task takes them: mono, at the rate of the model's feature extractor.

Source of the resampling: Julius O. Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample; a sinc
in a Hann window of six zero crossings, cut off at 0.99 of the lower rate, as torchaudio does it by default.
"""

import math
from typing import Any

import numpy as np
import torch

from score.errors import InvalidItem

_CROSSINGS, _ROLL_OFF = 6, 0.99
_HIGHEST = 768_000  # samples a second


def made(samples: np.ndarray, rate: int, wanted: int, most_seconds: float) -> dict[str, Any]:
    """What transformers' pipelines take. Raises `InvalidItem` for a recording that is too long."""
    if not 1000 <= rate <= _HIGHEST:
        raise InvalidItem(f"the recording has {rate:,} samples a second")
    if len(samples) > most_seconds * rate:
        raise InvalidItem(
            f"the recording takes {len(samples) / rate:,.0f} s, and SCORE_MAX_AUDIO_SECONDS allows {most_seconds:g}",
            hint="Send shorter ones, or raise SCORE_MAX_AUDIO_SECONDS.",
        )
    return {"raw": resampled(samples, rate, wanted), "sampling_rate": wanted}


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32[T] at another rate."""
    if rate == wanted:
        return samples
    common = math.gcd(rate, wanted)
    old, new = rate // common, wanted // common
    kernels, width = _kernels(old, new)
    padded = torch.nn.functional.pad(torch.from_numpy(samples)[None, None], (width, width + old))
    found = torch.nn.functional.conv1d(padded, kernels[:, None], stride=old)  # [1, new, blocks]
    return found[0].T.reshape(-1)[: math.ceil(new * len(samples) / old)].numpy()


def _kernels(old: int, new: int) -> tuple[torch.Tensor, int]:
    """A filter for each of the `new` places between two samples, and how far it reaches."""
    base = min(old, new) * _ROLL_OFF
    width = math.ceil(_CROSSINGS * old / base)
    places = torch.arange(-width, width + old, dtype=torch.float64)[None] / old
    times = (torch.arange(0, -new, -1, dtype=torch.float64)[:, None] / new + places) * base
    times = times.clamp(-_CROSSINGS, _CROSSINGS)
    window = torch.cos(times * math.pi / _CROSSINGS / 2) ** 2
    return (torch.sinc(times) * window * (base / old)).float(), width
