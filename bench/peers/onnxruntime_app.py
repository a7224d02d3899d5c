"""ONNX Runtime behind FastAPI, a pass a request: `uvicorn onnxruntime_app:app`."""

import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

FOLDER = os.environ["MODEL_DIR"]
TEXTS = os.environ["BENCH_BODY"] == "texts"
session = onnxruntime.InferenceSession(os.path.join(FOLDER, "model.onnx"))
app = FastAPI()
if TEXTS:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    names = AutoConfig.from_pretrained(FOLDER).id2label


@app.get("/health")
def health():
    return "ok"


def passed(body: bytes) -> Response:
    out = io.BytesIO()
    np.save(out, session.run(None, {session.get_inputs()[0].name: np.load(io.BytesIO(body))})[0])
    return Response(out.getvalue(), media_type="application/x-npy")


def classified(text: str) -> dict[str, object]:
    given = tokenizer([text], truncation=True, return_tensors="np")
    logits = session.run(None, {each.name: given[each.name] for each in session.get_inputs()})[0][0]
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return {"label": names[int(shares.argmax())], "score": float(shares.max())}


@app.post("/npy")
async def predict(request: Request):
    return await run_in_threadpool(passed, await request.body())


@app.post("/texts")
async def classify(body: dict):
    return await run_in_threadpool(classified, body["inputs"])
