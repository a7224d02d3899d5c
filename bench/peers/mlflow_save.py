"""A pickled module as a model of MLflow's: `python mlflow_save.py MODEL.PT FOLDER`; BENCH_SHAPE is a row's."""

import os
import sys

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

module = torch.load(sys.argv[1], weights_only=False).eval()
shape = (-1, *map(int, os.environ["BENCH_SHAPE"].split(",")))
signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.float32), shape)]))
mlflow.pytorch.save_model(module, sys.argv[2], signature=signature, serialization_format="pickle")
