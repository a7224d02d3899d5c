"""BentoML with adaptive batching: `bentoml serve bentoml_service:Model`."""

import os
from typing import Annotated

import bentoml
import numpy as np
import torch
from bentoml.validators import DType, Shape

WIDTH = int(os.environ["BENCH_SHAPE"])
Rows = Annotated[np.ndarray, DType("float32"), Shape((-1, WIDTH))]


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 512})
class Model:
    def __init__(self) -> None:
        self.model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64, max_latency_ms=60000)
    def predict(self, data: Rows) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))).numpy()
