"""Files that are items of a request: pictures and recordings in base64."""

import base64
import binascii
from typing import Any

from score.codecs.base import Body
from score.errors import InvalidItem

BASE64 = "b64"  # the key that TensorFlow Serving has for bytes in JSON


def is_file(item: Any) -> bool:
    """Whether an item says of itself that it is a file: `{"b64": "..."}`."""
    return isinstance(item, dict) and item.keys() == {BASE64}


def of_item(item: Any, what: str) -> Body:
    """A file in base64, as a text, with or without the beginning of a `data:` address, or as `{"b64": "..."}`. No other
    address is ever looked up. Raises `InvalidItem`."""
    text = item[BASE64] if is_file(item) else item
    if not isinstance(text, str):
        raise InvalidItem(f"{what} is a file in base64")
    try:
        return Body(base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidItem(f"{what} is a file in base64; addresses are not fetched") from None
