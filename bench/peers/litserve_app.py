"""LitServe with its dynamic batching: `python litserve_app.py PORT`."""

import base64
import io
import os
import sys

import litserve
import numpy as np
import torch


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()

    def batch(self, inputs):
        return torch.cat(inputs)

    def predict(self, batch):
        with torch.no_grad():
            return self.model(batch)

    def unbatch(self, output):
        return list(output)


class Json(Api):
    def decode_request(self, request):
        return torch.tensor(request["data"])

    def encode_response(self, output):
        return {"predictions": [output.tolist()]}


class Base64(Json):
    """An array of numpy's, as pictures are sent in JSON."""

    def decode_request(self, request):
        return torch.from_numpy(np.load(io.BytesIO(base64.b64decode(request["data"]))))


class Texts(litserve.LitAPI):
    def setup(self, device):
        from text_classifier import Classifier

        self.classify = Classifier()

    def decode_request(self, request):
        return request["inputs"]

    def predict(self, batch):
        return self.classify(batch)

    def encode_response(self, output):
        return output


APIS = {"base64": Base64, "texts": Texts}

if __name__ == "__main__":
    api = APIS.get(os.environ["BENCH_BODY"], Json)(max_batch_size=64, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
