"""A pickled module as a model of MLflow's: `python mlflow_save.py MODEL.PT FOLDER`; BENCH_SHAPE is a row's, BENCH_DTYPE
its type."""

import os
import sys

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

module = torch.load(sys.argv[1], weights_only=False).eval()
shape = (-1, *map(int, os.environ["BENCH_SHAPE"].split(",")))
signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype(os.environ["BENCH_DTYPE"]), shape)]))
mlflow.pytorch.save_model(module, sys.argv[2], signature=signature, serialization_format="pickle")
