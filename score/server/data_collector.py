"""Inputs and outputs to Azure ML's model data collector, where SCORE_COLLECT_DATA is set.

Off the request's path: a thread of its own hands over what a bounded queue holds. What does not fit is dropped, and
counted; nothing here ever fails a request.

See "Collect production data from models deployed for real-time inferencing" in Azure ML's documentation.
"""

import queue
import threading
from typing import Any

import numpy as np
import torch

from score import log
from score.codecs.base import Records
from score.server.body import nbytes
from score.server.metrics import RequestRecord

INPUTS, OUTPUTS = "model_inputs", "model_outputs"  # the names that Azure ML's monitoring looks for
MOST_WAITING = 64_000_000  # bytes


class Collector:
    """Hands exchanges that were answered to `azureml.ai.monitoring`."""

    def __init__(self, inputs: Any, outputs: Any) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._waiting: queue.SimpleQueue[tuple[RequestRecord, int]] = queue.SimpleQueue()
        self._bytes = 0  # of what waits
        self._lock = threading.Lock()
        self.dropped = 0
        threading.Thread(target=self._run, name="collector", daemon=True).start()

    @classmethod
    def if_wanted(cls, wanted: bool) -> "Collector | None":
        """None where it is not wanted, or its package is missing: then the log says so."""
        if not wanted:
            return None
        try:
            from azureml.ai.monitoring import Collector as Sink

            def complain(error: Exception) -> None:
                log.warning("data collection: %s", error)

            return cls(Sink(name=INPUTS, on_error=complain), Sink(name=OUTPUTS, on_error=complain))
        except Exception as error:  # noqa: BLE001  # serving goes on without it
            log.warning(
                "SCORE_COLLECT_DATA is set, but nothing is collected: %s (pip install azureml-ai-monitoring)", error
            )
            return None

    def saw(self, exchange: RequestRecord) -> None:
        if exchange.inputs is None or exchange.outputs is None:
            return
        size = nbytes(exchange.inputs) + nbytes(exchange.outputs)
        with self._lock:
            fits = self._bytes + size <= MOST_WAITING
            self._bytes += size if fits else 0
        if fits:
            self._waiting.put((exchange, size))
        else:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # at 1, 2, 4, 8 ...
                log.warning("data collection can't keep up: %d requests were not collected so far", self.dropped)

    def _run(self) -> None:
        while True:
            exchange, size = self._waiting.get()
            try:
                self._collect(exchange)
            except Exception as error:  # noqa: BLE001  # never the server's problem
                log.warning("data collection: %s", error)
            with self._lock:
                self._bytes -= size

    def _collect(self, exchange: RequestRecord) -> None:
        from azureml.ai.monitoring.context import BasicCorrelationContext

        context = BasicCorrelationContext(id=exchange.request_id)
        self._inputs.collect(_frame(exchange.inputs), context)
        self._outputs.collect(_frame(exchange.outputs), context)


def _frame(values: Any) -> Any:
    """Arrays as a table with a row for each of theirs: one number a column where that says it, lists where it does
    not."""
    import pandas

    if isinstance(values, Records):
        return pandas.DataFrame([{name: value.tolist() for name, value in row.items()} for row in values.rows])
    named = values if isinstance(values, dict) else {"output": values}
    columns: dict[str, Any] = {}
    for name, value in named.items():
        array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        if array.ndim == 2 and array.shape[1] <= 64:
            columns |= {f"{name}_{at}": array[:, at] for at in range(array.shape[1])}
        else:
            columns[name] = array.tolist() if array.ndim else [array.item()]
    return pandas.DataFrame({name: pandas.Series(column) for name, column in columns.items()})
