"""KServe's Python server: `python kserve_app.py PORT`. Its own batcher is a sidecar in a cluster, so one from a package
stands inside of the model here."""

import os
import sys

import torch
from batched import aio
from kserve import Model, ModelServer

module = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()


@aio.dynamically(batch_size=64, timeout_ms=5.0)
def forward(rows: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(module(torch.stack(rows)))


class Served(Model):
    def load(self) -> bool:
        self.ready = True
        return True

    async def predict(self, payload, headers=None, response_headers=None):
        rows = torch.tensor(payload["instances"])
        answers = await forward(list(rows))
        return {"predictions": torch.stack(answers).tolist()}


if __name__ == "__main__":
    served = Served("model")
    served.load()
    ModelServer(http_port=int(sys.argv[1]), workers=1, enable_grpc=False, access_log_format=None).start([served])
