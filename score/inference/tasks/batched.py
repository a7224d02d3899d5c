"""A transformers model as pipelines call it, while the batcher runs its forward passes."""

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from score.codecs.base import Arrays, named
from score.inference import dynamic_ranges, model_errors, outputs, staging, watchdog
from score.inference.batching.padded import Padded
from score.inference.batching.queue import Batcher, Limits
from score.inference.batching.ticket import Pass
from score.inference.infer_signature import device_of

AT_ONCE = 64  # items that are prepared, or wait for the model, at a time
_JOB = "job"


@dataclass(eq=False)
class _Job:
    """What runs by itself in the model's thread, and what came of it."""

    run: Callable[[], Any]
    result: Any = None


@dataclass(eq=False)
class Batched:
    """Stands in for `module`: a call waits for a pass of the batcher, in which others may run too. `generate` takes a
    turn by itself. Inputs are on the CPU, where a batch is put together. Everything else is the module's."""

    module: nn.Module
    limits: Limits
    tolerance: float
    layout: Padded
    passes: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self.device = device_of(self.module)
        self._lane = staging.lane_to(self.device)
        if self._lane is not None:
            self.layout.empty = self._lane.empty
        begin = self._begin if self._lane is not None else None
        separable = False if dynamic_ranges.shared(self.module) else None
        self.batcher = Batcher(self._forward, self.limits, separable, self.tolerance, self.layout, begin)
        self._kind: type = dict
        signature = inspect.signature(self.module.forward)
        self._names = list(signature.parameters)

        def forward(*positional: Any, **inputs: Any) -> Any:
            return self.module.forward(*positional, **inputs)

        # Pipelines look at its parameters at each call, and to find them out takes 0.1 ms.
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pipelines look at the name of the class
        return type(self.module)

    def __call__(self, *positional: Any, **inputs: Any) -> Any:
        given = dict(zip(self._names, positional, strict=False)) | inputs
        found, took = self.batcher.submit(given)
        self._note(took)
        return self._outputs(found)

    def _outputs(self, found: Arrays) -> Any:
        tensors = {name: torch.from_numpy(array) for name, array in named(found).items()}
        return self._kind(**tensors) if self._kind is not torch.Tensor else tensors["output"]

    def each(self, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The outputs of several calls, in as few passes as may be."""
        found: list[Any] = []
        for at in range(0, len(requests), AT_ONCE):
            answered = self.batcher.submit_all([dict(inputs) for inputs in requests[at : at + AT_ONCE]])
            for _, took in answered:
                self._note(took)
            found += [self._outputs(arrays) for arrays, _ in answered]
        return found

    def generate(self, *positional: Any, **given: Any) -> Any:
        """As the module's own, in the model's thread; its inputs may be on the CPU."""
        job = _Job(
            lambda: self.module.generate(  # type: ignore[operator]
                *[self._placed(value) for value in positional],
                **{name: self._placed(value) for name, value in given.items()},
            )
        )
        _, took = self.batcher.submit({_JOB: job})
        self._note(took)
        return job.result

    def taken(self) -> list[Pass]:
        """The passes that this thread has waited for since it was last asked."""
        found: list[Pass] = getattr(self.passes, "found", [])
        self.passes.found = []
        return found

    def _note(self, took: Pass) -> None:
        self.passes.found = [*getattr(self.passes, "found", []), took]

    def _forward(self, inputs: dict[str, Any]) -> Any:
        with model_errors.as_ours(), torch.inference_mode():
            if isinstance(job := inputs.get(_JOB), _Job):
                with watchdog.forward_pass():
                    job.result = job.run()
                return {}
            return {name: outputs.array(value) for name, value in self._call(inputs).items()}

    def _begin(self, inputs: dict[str, Any]) -> Callable[[], Arrays] | None:
        """Have the GPU begin the same; what is to be generated takes its turn."""
        if _JOB in inputs:
            return None
        assert self._lane is not None
        return staging.begun(self._lane, self._call, model_errors.as_ours, inputs)

    def _call(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The module's outputs that are tensors; of what kind all were is kept."""
        with watchdog.forward_pass():
            found = self.module(**{name: self._placed(value) for name, value in inputs.items()})
        self._kind = torch.Tensor if isinstance(found, torch.Tensor) else type(found)
        named_ones = {"output": found} if isinstance(found, torch.Tensor) else found
        return {name: value for name, value in named_ones.items() if isinstance(value, torch.Tensor)}

    def _placed(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, torch.Tensor) else value
