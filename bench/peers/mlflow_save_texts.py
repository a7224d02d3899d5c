"""A text classifier as a model of MLflow's: `python mlflow_save_texts.py MODEL FOLDER`."""

import sys

import mlflow.transformers
from transformers import pipeline

classify = pipeline("text-classification", model=sys.argv[1], device="cpu")
mlflow.transformers.save_model(classify, sys.argv[2], pip_requirements=["torch", "transformers"])
