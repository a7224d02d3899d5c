"""The parts of a form: files, and parameters as JSON. Specification: RFC 7578; read by werkzeug."""

from typing import Any

import orjson
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from score.errors import InvalidForm

_LONGEST_BOUNDARY = 70  # characters, by RFC 2046
MOST_PARTS = 1000


def parts(data: bytes) -> tuple[list[tuple[str, bytes]], dict[str, Any]]:
    """The files, each with its content type, and the parameters. Raises `InvalidForm`."""
    first = data.split(b"\r\n", 1)[0]
    if not first.startswith(b"--") or not 3 <= len(first) <= _LONGEST_BOUNDARY + 2:
        raise InvalidForm("the form does not begin with its boundary")
    decoder = MultipartDecoder(first[2:], max_parts=MOST_PARTS)
    files: list[tuple[str, bytes]] = []
    parameters: dict[str, Any] = {}
    try:
        decoder.receive_data(data)
        decoder.receive_data(None)
        part: Field | File | None = None
        pieces: list[bytes] = []
        while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
            if isinstance(event, (Field, File)):
                part, pieces = event, []
            elif isinstance(event, Data):
                pieces.append(event.data)
                if not event.more_data and part is not None:
                    _take(part, b"".join(pieces), files, parameters)
    except RequestEntityTooLarge:
        raise InvalidForm(f"the form has more than {MOST_PARTS:,} parts") from None
    except ValueError as error:
        raise InvalidForm(f"the form is not whole ({error})") from None
    if not files:
        raise InvalidForm("the form has no file")
    return files, parameters


def _take(part: Field | File, data: bytes, files: list[tuple[str, bytes]], parameters: dict[str, Any]) -> None:
    if isinstance(part, File):
        files.append((part.headers.get("content-type", "").partition(";")[0].strip().lower(), bytes(data)))
        return
    if part.name != "parameters":
        raise InvalidForm(f"the form has a field {part.name!r:.80}; there may be files, and `parameters`")
    try:
        given = orjson.loads(data)
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise InvalidForm("the field `parameters` is no JSON object")
    parameters |= given
