"""The paths that Vertex AI asks a container to answer, which it names in the environment.

Specification: cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements.
"""

import os

from score.server.api import VERTEX
from score.server.routes.mlflow import ping
from score.server.routes.table import Page, Predicts, Row

PREDICT, HEALTH = "AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"


def rows() -> tuple[Row, ...]:
    """Where they are named, and are none of the server's own."""
    predict, health = os.environ.get(PREDICT, ""), os.environ.get(HEALTH, "")
    found: list[Row] = []
    if _is_plain(predict) and predict != "/score":
        found.append(Predicts(predict, "Predictions for `instances`", VERTEX))
    if _is_plain(health) and health != "/":
        found.append(Page(health, "Whether predictions are answered", ping, VERTEX, at_once=True))
    return tuple(found)


def _is_plain(path: str) -> bool:
    return path.startswith("/") and not set(path) & set("{}")
