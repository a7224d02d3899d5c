"""A Ray Serve application around `score.Predictor`: replicas on as many machines as the cluster has.

    pip install loadstone "ray[serve]"
    LOADSTONE_MODEL=path/to/model serve run deploy.ray.app:app

Requests are bodies as `POST /score` takes them, on Ray's port and path; answers and errors are the same.
"""

import os

from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=int(os.environ.get("LOADSTONE_REPLICAS", "2")), max_ongoing_requests=256)
class Loadstone:
    """One replica: a model in a process of its own, with its own batches."""

    def __init__(self, path: str) -> None:
        import score

        self._predictor = score.Predictor(path)

    async def __call__(self, request: Request) -> Response:
        import asyncio

        from score.codecs.base import Body
        from score.errors import ScoreError
        from score.inference.pipeline import infer
        from score.server import answer

        body = Body(await request.body(), request.headers.get("content-type", "").partition(";")[0])
        try:
            found = await asyncio.to_thread(infer, self._predictor, body, request.headers.get("accept"))
        except ScoreError as error:
            refused = answer.of_error(error, request.headers.get("x-request-id", ""))
            return Response(refused.body, refused.status, dict(refused.headers))
        return Response(found.encoded.body, headers={"content-type": found.encoded.content_type})


app = Loadstone.bind(os.environ.get("LOADSTONE_MODEL", "examples/digits/torch-zip"))
