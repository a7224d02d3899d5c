"""The Azure ML batch scoring script: `init()` loads the model, `run(mini_batch)` answers files.

A file is a table of rows: `.npy`, `.csv`, `.parquet`, or `.jsonl` with a row, or named inputs, in each line; or a
picture, which is one row. Rows are read and answered a chunk at a time, so a file may be larger than the memory, and
pictures together, as many as run at once. Each prediction is a row of the
DataFrame that comes back, with the file and the row that it is for. A file that can't be answered is reported by name
in the log and in the column `error`, and does not fail the others.

See "Author scoring scripts for batch deployments" in Azure ML's documentation. Needs the extra `batch`.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Azure runs this file from anywhere

import numpy as np
import orjson
import pandas

from score import log
from score.codecs import _tables as tables
from score.codecs.base import Arrays, Records
from score.errors import BodyTooLarge, ScoreError
from score.inference.pipeline import load_model
from score.inference.predictor import Predictor
from score.settings import Settings

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
PICTURES_AT_ONCE = 16  # read and decoded; their passes run together

served: Predictor


def init() -> None:
    """Load the model; a `LoadError` says why that can't be."""
    global served
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s")
    served = load_model(Settings.load())
    for line in served.report.lines():
        log.info("%s", line)


def run(mini_batch: list[str]) -> pandas.DataFrame:
    """A row for each prediction: `file`, `row`, and a column for each number of an output; or `error` for a file."""
    parts = []
    with ThreadPoolExecutor(PICTURES_AT_ONCE) as threads:
        pictures = {name: threads.submit(_picture, Path(name)) for name in mini_batch if _is_picture(name)}
    for at, name in enumerate(mini_batch, 1):
        started, rows = time.perf_counter(), 0
        try:
            for part in [pictures[name].result()] if name in pictures else _answered(Path(name)):
                rows += len(part)
                parts.append(part)
        except (ScoreError, OSError) as error:
            message = f"{error.code}: {error.message}" if isinstance(error, ScoreError) else str(error)
            log.error("%s: %s (after %d rows)", name, message, rows)
            parts.append(pandas.DataFrame({"file": [name], "row": [rows], "error": [message]}))
        seconds = time.perf_counter() - started
        log.info("%d/%d %s: %d rows in %.2f s", at, len(mini_batch), name, rows, seconds)
    return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURES


def _picture(path: Path) -> pandas.DataFrame:
    """The prediction for a picture, whose forward pass is that of others, too; a task's answer as JSON."""
    if path.stat().st_size > served.settings.max_body_mb * 1e6:
        raise BodyTooLarge(f"{path.name} is larger than {served.settings.max_body_mb:g} MB")
    found = served(path.read_bytes())
    if served.runner is not None:
        said = orjson.dumps(found).decode()
        return pandas.DataFrame({"file": [str(path)], "row": [0], "prediction": [said]})
    return _frame(path, 0, 1, found)


def _answered(path: Path) -> Iterator[pandas.DataFrame]:
    """The predictions for a file, a chunk at a time."""
    start = 0
    for arrays in tables.chunks(path, served.settings.max_batch):
        rows = len(next(iter(arrays.values())) if isinstance(arrays, Mapping) else arrays)
        yield _frame(path, start, rows, served(arrays))
        start += rows


def _frame(path: Path, start: int, rows: int, outputs: Arrays) -> pandas.DataFrame:
    columns: dict[str, Any] = {"file": str(path), "row": np.arange(start, start + rows)}
    if isinstance(outputs, Records):
        found = [{name: value.tolist() for name, value in row.items()} for row in outputs.rows]
        return pandas.concat([pandas.DataFrame(columns), pandas.DataFrame(found)], axis=1)
    named = outputs if isinstance(outputs, Mapping) else {"prediction": outputs}
    for name, values in named.items():
        flat = values.reshape(rows, -1)
        if flat.shape[1] == 1:
            columns[name] = flat[:, 0]
        else:
            columns |= {f"{name}_{at}": flat[:, at] for at in range(flat.shape[1])}
    return pandas.DataFrame(columns)
