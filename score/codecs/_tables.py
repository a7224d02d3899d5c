"""Files of rows, read a chunk at a time: `.npy`, `.csv`, `.parquet`, `.jsonl`."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas

from score.codecs.base import Arrays
from score.codecs.json_dialects import array
from score.errors import InvalidArray, InvalidJson, NotNumeric, UnsupportedMediaType, WrongInputs


def chunks(path: Path, rows: int) -> Iterator[Arrays]:
    """A file's rows, at most `rows` at a time: one array, or one for each named input.

    Raises `UnsupportedMediaType` for another suffix, `InvalidArray`, `InvalidJson`, `NotNumeric`, `RaggedRows` or
    `WrongInputs` at the chunk that is wrong, and `OSError`.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UnsupportedMediaType(
            f"{path.name} is none of {', '.join(_READERS)}", hint="Write the rows in one of these formats."
        )
    return reader(path, rows)


def _npy(path: Path, rows: int) -> Iterator[Arrays]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidArray(f"{path.name} is not a numpy array ({error})") from None
    if not isinstance(values, np.ndarray) or not values.ndim:
        raise InvalidArray(f"{path.name} is not an array of rows")
    for start in range(0, len(values), rows):
        yield np.array(values[start : start + rows])


def _csv(path: Path, rows: int) -> Iterator[Arrays]:
    """Columns of numbers, with a header or without: a first line that is all numbers is a row."""
    try:
        first = pandas.read_csv(path, header=None, nrows=1)
        bare = all(kind.kind in "biuf" for kind in first.dtypes)
        with pandas.read_csv(path, header=None if bare else "infer", chunksize=rows) as reader:
            for frame in reader:
                yield _numbers(path, frame)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise InvalidArray(f"{path.name} is not a table ({error})") from None


def _parquet(path: Path, rows: int) -> Iterator[Arrays]:
    """Columns of numbers; or a single column of lists, each a row."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(rows):
                frame = batch.to_pandas()
                if len(frame.columns) == 1 and frame.dtypes.iloc[0].kind == "O":
                    yield array([np.asarray(row).tolist() for row in frame.iloc[:, 0]], path.name)
                else:
                    yield _numbers(path, frame)
    except pyarrow.ArrowException as error:
        raise InvalidArray(f"{path.name} is not a parquet table ({error})") from None


def _numbers(path: Path, frame: pandas.DataFrame) -> np.ndarray:
    odd = [str(name) for name, kind in frame.dtypes.items() if kind.kind not in "biuf"]
    if odd:
        raise NotNumeric(f"{path.name}: the columns {', '.join(odd[:5])} are not numbers")
    if frame.isna().any(axis=None):
        raise NotNumeric(f"{path.name}: the columns {', '.join(map(str, frame.columns[frame.isna().any()]))} have gaps")
    found: np.ndarray = frame.to_numpy()
    return found


def _jsonl(path: Path, rows: int) -> Iterator[Arrays]:
    """A row a line, or an object of named inputs a line."""
    with path.open("rb") as file:
        numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while part := list(itertools.islice(numbered, rows)):
            yield _lines(path, part)


def _lines(path: Path, part: list[tuple[int, bytes]]) -> Arrays:
    found: list[Any] = []
    for number, line in part:
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise InvalidJson(f"{path.name}, line {number}: {error.msg}") from None
    where = f"{path.name} from line {part[0][0]}"
    if not isinstance(found[0], dict):
        return array(found, where)
    for (number, _), row in zip(part, found, strict=True):
        if not isinstance(row, dict) or row.keys() != found[0].keys():
            raise WrongInputs(f"{path.name}, line {number}: other names than in line {part[0][0]}")
    return {name: array([row[name] for row in found], f"{where}, {name}") for name in found[0]}


_READERS: dict[str, Callable[[Path, int], Iterator[Arrays]]] = {
    ".npy": _npy, ".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl,
}  # fmt: skip
