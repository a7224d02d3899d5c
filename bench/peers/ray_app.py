"""Ray Serve with its batching: `python ray_app.py PORT`."""

import io
import os
import signal
import sys

import numpy as np
import ray
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

NPY = os.environ["BENCH_BODY"] == "npy"


@serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 1})
class Served:
    def __init__(self) -> None:
        self.model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.005)
    async def forward(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(self.model(torch.cat(rows)))

    async def __call__(self, request: Request):
        if not NPY:
            return {"predictions": [(await self.forward(torch.tensor((await request.json())["data"]))).tolist()]}
        answer = await self.forward(torch.from_numpy(np.load(io.BytesIO(await request.body()))))
        out = io.BytesIO()
        np.save(out, answer[None].numpy())
        return Response(out.getvalue(), media_type="application/x-npy")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Served.bind(), route_prefix="/predict")
    signal.pause()
