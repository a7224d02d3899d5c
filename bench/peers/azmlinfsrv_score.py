"""The score.py that Azure ML's documentation teaches, with npy bodies beside JSON."""

import io
import json
import os

import numpy as np
import torch
from azureml_inference_server_http.api.aml_request import rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse


def init():
    global model
    model = torch.load(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.pt"), weights_only=False).eval()


if os.environ.get("BENCH_BODY") == "npy":

    @rawhttp
    def run(request):
        data = torch.from_numpy(np.load(io.BytesIO(request.get_data())))
        with torch.no_grad():
            answer = model(data).numpy()
        out = io.BytesIO()
        np.save(out, answer)
        return AMLResponse(out.getvalue(), 200)

else:

    def run(raw_data):
        data = torch.tensor(json.loads(raw_data)["data"])
        with torch.no_grad():
            return model(data).tolist()
