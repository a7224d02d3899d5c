"""`csv`: a table of numbers or texts, as MLflow's and SageMaker's clients send it; its header may be missing.

Specification: RFC 4180; its parameter `header=present` or `header=absent` of the content type decides where a table of
texts leaves open whether its first row is one.
"""

import csv
import io
from collections.abc import Mapping

import numpy as np

from score.codecs.base import Arrays, Body, Decoded, Encoded, Items, Records
from score.errors import InvalidTable, NotAcceptable, NotNumeric

NAME = "csv"
TYPES = ("text/csv",)
PRIORITY = 20
EXAMPLES = (("a table of numbers, or a column of texts, as `text/csv`", "MLflow, SageMaker", "CSV"),)
_TEXTS = frozenset(
    ("text", "texts", "inputs", "input", "sentence", "text_pair", "question", "context", "query", "data")
)
_TOLD = "Send it as `text/csv; header=present` or `text/csv; header=absent`."
_EXACT = 2**53  # from here on, float64 rounds integers


def accepts(body: Body) -> bool:
    return body.content_type in TYPES


def effort(body: Body) -> int | None:
    return len(body.data) if accepts(body) else None


def decode(body: Body) -> Decoded:
    """Raises `InvalidTable` or `NotNumeric`."""
    rows = _rows(body.data)
    if body.header is None and len(rows) > 1 and rows[0] == [str(at) for at in range(len(rows[0]))]:
        raise InvalidTable(
            "the first row counts from 0, as pandas names columns that have no names, and may be values as well",
            hint=_TOLD,
        )
    has_header = body.header if body.header is not None else not _is_numeric(rows[0])
    names, cells = (rows[0], rows[1:]) if has_header else ([], rows)
    if not cells:
        raise InvalidTable("the table has a header, and no row below it")
    if len(set(names)) != len(names):
        raise InvalidTable("two columns of the table have the same name")
    if not _is_numeric(cells[0]):
        return _of_texts(names, cells, told=body.header is not None)
    return Decoded(_numbers(cells, first=1 + bool(names)), NAME, columns=tuple(names))


def _rows(data: bytes) -> list[list[str]]:
    try:
        text = data.decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidTable(f"the table can't be read ({error})") from None
    if not rows:
        raise InvalidTable("the table has no rows")
    for at, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise InvalidTable(f"row {at} has {len(row)} values, the first has {len(rows[0])}")
    return rows


def _is_numeric(row: list[str]) -> bool:
    return all(_is_number(cell) for cell in row)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _numbers(rows: list[list[str]], first: int) -> np.ndarray:
    try:
        found = np.array(rows, dtype=np.float64)
    except ValueError:
        found = np.empty(0)
    if not found.size or any("_" in cell for row in rows for cell in row):
        at, cell = next((at, cell) for at, row in enumerate(rows, first) for cell in row if not _is_number(cell))
        raise NotNumeric(f"row {at} has {cell[:80]!r} where a number belongs")
    if np.abs(found).max(initial=0) >= _EXACT:
        try:
            return np.array(rows, dtype=np.int64)
        except (ValueError, OverflowError):
            return found
    return found


def _of_texts(names: list[str], rows: list[list[str]], *, told: bool) -> Decoded:
    if not told and not {name.strip().lower() for name in names} & _TEXTS:
        raise InvalidTable(
            "nothing says whether the first row of these texts is a header",
            hint=_TOLD,
        )
    if len(rows[0]) == 1:
        items: tuple[object, ...] = tuple(row[0] for row in rows)
    elif names:
        items = tuple(dict(zip(names, row, strict=True)) for row in rows)
    else:
        raise InvalidTable("several columns of texts need a header with their names")
    return Decoded(np.empty(0), NAME, items=Items(items, single=False, parameters={}))


def encode(outputs: Arrays, _decoded: Decoded) -> Encoded:
    """A row for each; several outputs beside each other, with a header. Raises `NotAcceptable` where a row is no row of
    numbers."""
    if isinstance(outputs, Records):
        raise NotAcceptable("each row of this answer is a record, which CSV has no way to write")
    found = outputs if isinstance(outputs, Mapping) else {"": outputs}
    blocks = {
        name: values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1) for name, values in found.items()
    }
    if len({len(block) for block in blocks.values()}) != 1 or any(values.ndim > 2 for values in found.values()):
        raise NotAcceptable("this answer is no table, which is all that CSV can write")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if list(blocks) != [""]:
        writer.writerow(
            [
                name if block.shape[1] == 1 else f"{name}_{at}"
                for name, block in blocks.items()
                for at in range(block.shape[1])
            ]
        )
    writer.writerows([cell for block in row for cell in block.tolist()] for row in zip(*blocks.values(), strict=True))
    return Encoded(text.getvalue().encode(), TYPES[0])
