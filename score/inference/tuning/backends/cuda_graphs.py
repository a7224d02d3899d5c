"""`cuda-graphs`: the kernels of a pass recorded once for each number of rows, and sent to the GPU in one call.

What a small model takes on a GPU is mostly Python and the launching of kernels. A graph has fixed sizes: a pass is
padded to the next power of two, and the first of each is recorded. So it is for models that answer each row by itself,
and whose inputs have no other free size. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from score.inference.tuning.backends.base import Built, NotPossible, Subject

NAME = "cuda-graphs"
_WARM_UPS = 3  # passes before the recording, in which libraries choose their kernels


class Recording(Protocol):
    """What was recorded: replayed, it computes its outputs from its inputs anew, each in its place."""

    outputs: Sequence[torch.Tensor]

    def replay(self) -> None: ...


Compute = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]
Record = Callable[[Compute, Sequence[torch.Tensor]], Recording]


def missing(device: torch.device) -> str | None:
    return None if device.type == "cuda" else "it is for GPUs here"


class _OnGpu:
    """A graph of CUDA's."""

    def __init__(self, compute: Compute, inputs: Sequence[torch.Tensor]) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                compute(inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # others may use the GPU meanwhile
            self.outputs = compute(inputs)

    def replay(self) -> None:
        self._graph.replay()


@dataclass(frozen=True)
class _Bucket:
    """A recording for so many rows, and where its inputs lie."""

    inputs: Sequence[torch.Tensor]
    recording: Recording

    def run(self, given: Sequence[torch.Tensor], rows: int) -> list[torch.Tensor]:
        """Rows of another request never stay behind those of this one: what is padded is zero."""
        for place, value in zip(self.inputs, given, strict=True):
            place[:rows].copy_(value)
            place[rows:].zero_()
        self.recording.replay()
        return [value[:rows].clone() for value in self.recording.outputs]


def build(subject: Subject, record: Record = _OnGpu) -> Built:
    samples = subject.samples
    if any(at != 0 for sizes in samples.free.values() for at in sizes):
        raise NotPossible("its inputs have other free sizes than the number of rows")
    if len(samples.all) > 1 and any(0 not in sizes for sizes in samples.free.values()):
        raise NotPossible("an input has no rows")
    buckets: dict[int, _Bucket] = {}

    def run(inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        rows = inputs[0].shape[0]
        size = padded(rows)
        if size not in buckets:
            buckets[size] = _recorded(subject, inputs, size, record)
        return buckets[size].run(inputs, rows)

    return Built(run)


def padded(rows: int) -> int:
    """The next power of two."""
    return 1 << max(rows - 1, 0).bit_length()


def _recorded(subject: Subject, like: Sequence[torch.Tensor], rows: int, record: Record) -> _Bucket:
    inputs = [value.new_zeros((rows, *value.shape[1:])) for value in like]
    recording = record(lambda given: subject.flat(*given), inputs)
    if any(not value.dim() or value.shape[0] != rows for value in recording.outputs):
        raise NotPossible("an output has no rows")
    return _Bucket(inputs, recording)
