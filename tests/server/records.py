"""Records of requests as they come out of the server, for those that watch."""

import time

import numpy as np
import torch

from score.inference.batching.ticket import Pass
from score.server.metrics import RequestRecord


def exchange(status: int = 200, rows: int = 2, batch: int = 8, error: str = "") -> RequestRecord:
    found = RequestRecord("r1", began=time.perf_counter() - 0.1, codec="json", status=status, error=error)
    if status == 200:
        inputs = {"x": torch.ones(rows, 3)}
        found.inputs = inputs
        found.answered(np.zeros((rows, 2)), Pass(0.02, 0.05, rows, batch))
    return found
