"""A loaded model that answers: what `init()` makes and `run()` uses."""

import logging
import platform
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from score import outputs, probing
from score.errors import ModelRejected
from score.load import LoadReport
from score.settings import Settings
from score.signature import Signature

log = logging.getLogger("azmlinfsrv.score")


@dataclass(frozen=True, eq=False)
class Served:
    """A module on its device, the report of how it was loaded, and what its architecture was registered to take."""

    module: nn.Module
    report: LoadReport
    settings: Settings
    registered: str | dict[str, str] | None = None

    @cached_property
    def signature(self) -> Signature:
        """What the model takes. Where nobody said, this tries the model, so it is found on first use."""
        if self.settings.inputs:
            return probing.find(self.module, self.settings.inputs, "SCORE_INPUTS")
        return probing.find(self.module, self.registered, "registered")

    @cached_property
    def _order(self) -> list[str]:
        return probing.input_names(self.module)

    def predict(self, inputs: dict[str, Any]) -> np.ndarray | dict[str, np.ndarray]:
        """Run the model on validated inputs. Raises `ModelRejected` with what the model said."""
        try:
            return outputs.arrays(probing.call(self.module, inputs, self._order))
        except ModelRejected:
            raise
        except Exception as error:  # the model's own code raises anything
            raise ModelRejected(f"the model raised {type(error).__name__}: {_first_lines(error)}") from error

    def warm_up(self) -> None:
        """Run one made-up request, so that the first real one pays for no lazy set-up."""
        if not self.signature.known:
            log.info("no warm-up: what the model takes is not known (set SCORE_INPUTS to have requests checked)")
            return
        start = time.perf_counter()
        try:
            self.predict(probing.synthetic(self.signature))
        except ModelRejected as error:
            log.warning("the warm-up request was refused: %s", error.message)
        else:
            log.info("warmed up in %.1f ms", (time.perf_counter() - start) * 1e3)

    def card(self) -> dict[str, Any]:
        """The model card that `GET /score` shows."""
        return {
            "model": self.report.as_dict(),
            "signature": self.signature.as_dict(),
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        }


def _first_lines(error: Exception, limit: int = 500) -> str:
    text = "\n".join(line for line in str(error).splitlines() if line.strip())
    return text if len(text) <= limit else text[:limit] + " ..."
