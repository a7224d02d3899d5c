"""The example: a small convolutional network for the 8 x 8 digits that scikit-learn bundles."""

import torch
from torch import nn

from . import register


@register(inputs="float32[N, 1, 8, 8]", white=16.0, labels=tuple("0123456789"))
class DigitsCNN(nn.Module):
    """Two convolutions and two linear layers; ten classes, one a digit. Pixels go from 0 to 16, as in the data set."""

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(2 * width * 4 * 4, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, classes)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(pixels / 16.0))
        return logits
