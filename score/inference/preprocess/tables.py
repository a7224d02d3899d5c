"""Tables, whose columns have names, as a model's inputs."""

from collections.abc import Sequence

import numpy as np

from score.codecs.base import Arrays, Decoded
from score.errors import RaggedRows, WrongInputs
from score.inference.signature import InputSpec, Signature


def of_columns(decoded: Decoded, signature: Signature, recorded: Sequence[str]) -> Arrays:
    """A table as the model takes it: in the order of the columns that were `recorded` with the model, or a column for
    each input where they are called as those are; else as it came.

    Raises `RaggedRows`, or `WrongInputs` where recorded columns are missing, or there are others.
    """
    table, names = decoded.arrays, list(decoded.columns)
    if not isinstance(table, np.ndarray):
        return table
    if table.ndim != 2 or table.shape[1] != len(names):
        if table.ndim < 2 and len(names) != 1:
            raise RaggedRows(f"the table has {len(names)} columns, and its data are no rows of as many values")
        return table
    if recorded and set(names) != set(recorded):
        raise WrongInputs(f"the model takes the columns {', '.join(recorded)}; received {', '.join(names)}")
    if recorded:
        return table[:, [names.index(name) for name in recorded]]
    if len(signature.inputs) > 1 and signature.required <= set(names) <= signature.by_name.keys():
        return {name: _column(table[:, at], signature.by_name[name]) for at, name in enumerate(names)}
    return table


def _column(values: np.ndarray, spec: InputSpec) -> np.ndarray:
    """A value for each row: by itself, or as a row of one."""
    return values[:, np.newaxis] if spec.shape is not None and len(spec.shape) == 2 else values
