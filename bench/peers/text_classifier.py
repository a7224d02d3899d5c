"""A text classifier of transformers as people put it into a server that batches: padded to the longest of a batch."""

import os

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Classifier:
    def __init__(self):
        folder = os.environ["MODEL_DIR"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def __call__(self, texts):
        """A label and its probability for each text."""
        given = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            shares, labels = self.model(**given).logits.softmax(-1).max(-1)
        names = self.model.config.id2label
        return [
            {"label": names[label], "score": share}
            for label, share in zip(labels.tolist(), shares.tolist(), strict=True)
        ]
