"""ONNX Runtime behind FastAPI, a pass a request: `uvicorn onnxruntime_app:app`."""

import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

session = onnxruntime.InferenceSession(os.path.join(os.environ["MODEL_DIR"], "model.onnx"))
taken = session.get_inputs()[0].name
app = FastAPI()


@app.get("/health")
def health():
    return "ok"


def passed(body: bytes) -> Response:
    out = io.BytesIO()
    np.save(out, session.run(None, {taken: np.load(io.BytesIO(body))})[0])
    return Response(out.getvalue(), media_type="application/x-npy")


@app.post("/npy")
async def predict(request: Request):
    return await run_in_threadpool(passed, await request.body())
