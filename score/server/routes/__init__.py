"""One file a protocol, each a table of its routes."""

from score.server.routes import mlflow, oip_v2, prometheus, v1, vertex
from score.server.routes.table import Row


def every_row() -> tuple[Row, ...]:
    """All routes beside `/score`; those for predictions first, since the first that fits a path answers."""
    return (*vertex.rows(), *oip_v2.ROWS, *v1.ROWS, *mlflow.ROWS, *prometheus.ROWS)
