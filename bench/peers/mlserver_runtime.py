"""MLServer with adaptive batching, through a runtime of one's own, as its documentation says for PyTorch."""

import os

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self._model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        data = torch.from_numpy(self.decode(payload.inputs[0], default_codec=NumpyCodec)).float()
        with torch.no_grad():
            answer = self._model(data).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("output", answer)])
