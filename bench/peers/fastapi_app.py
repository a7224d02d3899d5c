"""FastAPI as its documentation teaches it: `uvicorn fastapi_app:app`."""

import io
import os

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()
app = FastAPI()


class Body(BaseModel):
    data: list[list[float]]


@app.get("/health")
def health():
    return "ok"


@app.post("/json")
def predict(body: Body):
    with torch.no_grad():
        return {"predictions": model(torch.tensor(body.data)).tolist()}


@app.post("/npy")
async def predict_npy(request: Request):
    data = torch.from_numpy(np.load(io.BytesIO(await request.body())))
    with torch.no_grad():
        answer = model(data).numpy()
    out = io.BytesIO()
    np.save(out, answer)
    return Response(out.getvalue(), media_type="application/x-npy")
