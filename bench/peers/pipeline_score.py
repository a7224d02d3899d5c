"""The score.py that people write for a text model of transformers: its pipeline, one request at a time."""

import json
import os

from transformers import pipeline


def init():
    global classify
    classify = pipeline("text-classification", model=os.environ["AZUREML_MODEL_DIR"], device="cpu")


def run(raw_data):
    return classify(json.loads(raw_data)["inputs"])
