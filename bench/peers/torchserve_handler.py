"""A TorchServe handler that runs a batch as one forward pass."""

import io
import json
import os

import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class Handler(BaseHandler):
    def initialize(self, context):
        if os.environ["BENCH_BODY"] == "texts":
            from text_classifier import Classifier

            self.classify = Classifier()
        else:
            self.classify = None
            self.model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()
        self.initialized = True

    def handle(self, requests, context):
        bodies = [request.get("body") or request.get("data") for request in requests]
        if self.classify is not None:
            return self.classify([_json(body)["inputs"] for body in bodies])
        npy = isinstance(bodies[0], (bytes, bytearray)) and bytes(bodies[0][:6]) == b"\x93NUMPY"
        if npy:
            rows = [torch.from_numpy(np.load(io.BytesIO(body))) for body in bodies]
        else:
            rows = [torch.tensor(_json(body)["data"]) for body in bodies]
        with torch.no_grad():
            answers = self.model(torch.cat(rows)).split([len(part) for part in rows])
        if not npy:
            return [{"predictions": answer.tolist()} for answer in answers]
        return [self._npy(answer) for answer in answers]

    def _npy(self, answer):
        out = io.BytesIO()
        np.save(out, answer.numpy())
        return out.getvalue()


def _json(body):
    return json.loads(body) if isinstance(body, (bytes, bytearray)) else body
