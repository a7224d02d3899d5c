"""Triton through PyTriton, with its dynamic batcher: `python triton_app.py PORT`."""

import os
import sys

import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def of_arrays():
    """What computes, its inputs and its outputs."""
    model = torch.load(os.path.join(os.environ["MODEL_DIR"], "model.pt"), weights_only=False).eval()

    @batch
    def infer(data):
        with torch.no_grad():
            return {"output": model(torch.from_numpy(data)).numpy()}

    shape = tuple(map(int, os.environ["BENCH_SHAPE"].split(",")))
    outputs = (-1,) * int(os.environ.get("BENCH_OUTPUT_DIMENSIONS", "1"))
    taken = Tensor(name="data", dtype=np.dtype(os.environ.get("BENCH_DTYPE", "float32")).type, shape=shape)
    return infer, [taken], [Tensor(name="output", dtype=np.float32, shape=outputs)]


def of_texts():
    from text_classifier import Classifier

    classify = Classifier()

    @batch
    def infer(text):
        found = classify([each.decode() for each in text[:, 0]])
        labels = np.array([[each["label"].encode()] for each in found], dtype=bytes)
        return {"label": labels, "score": np.array([[each["score"]] for each in found], dtype=np.float32)}

    outputs = [Tensor(name="label", dtype=bytes, shape=(1,)), Tensor(name="score", dtype=np.float32, shape=(1,))]
    return infer, [Tensor(name="text", dtype=bytes, shape=(1,))], outputs


if __name__ == "__main__":
    port = int(sys.argv[1])
    config = TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2, http_address="127.0.0.1")
    infer, inputs, outputs = of_texts() if os.environ["BENCH_BODY"] == "texts" else of_arrays()
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=infer,
            inputs=inputs,
            outputs=outputs,
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=5000)),
        )
        triton.serve()
