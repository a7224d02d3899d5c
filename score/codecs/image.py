"""`image`: a PNG or JPEG file as the body; its answer is JSON. Needs Pillow (the extra `image`)."""

import importlib.util
import io
import warnings

import numpy as np

from score.codecs import json_dialects
from score.codecs.base import Arrays, Body, Decoded, Encoded
from score.errors import InvalidImage, UnsupportedMediaType

NAME = "image"
TYPES = ("application/json",)  # that it writes
PRIORITY = 30
EXAMPLES = (
    (
        "`image/png`, `image/jpeg`: a picture, for models whose task or recipe is known",
        "curl, browsers",
        'as the task answers; else as `{"data": ...}`',
    ),
)
MOST_PIXELS = 50_000_000

_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}


def accepts(body: Body) -> bool:
    return body.data.startswith(tuple(_BEGINNINGS)) or body.content_type.startswith("image/")


def effort(body: Body) -> int | None:
    """Three bytes a pixel, as far as the picture's head says how many there are."""
    format = _format(body)
    if format is None or importlib.util.find_spec("PIL") is None:
        return None
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(body.data), formats=[format])
            return max(len(body.data), 3 * image.width * image.height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return len(body.data)  # it will be refused


def _format(body: Body) -> str | None:
    return next((name for beginning, name in _BEGINNINGS.items() if body.data.startswith(beginning)), None)


def decode(body: Body) -> Decoded:
    """The pixels, uint8[H, W, 3], upright as the camera's orientation says. Raises `InvalidImage`."""
    format = _format(body)
    if format is None:
        raise UnsupportedMediaType(f"{body.content_type}: images are taken as PNG or JPEG")
    if importlib.util.find_spec("PIL") is None:
        raise UnsupportedMediaType("images need Pillow here", hint="Install the extra `image` (pip install pillow).")
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            image = Image.open(io.BytesIO(body.data), formats=[format])
            most = min(MOST_PIXELS, body.limit // 3)  # a pixel becomes three bytes
            if image.width * image.height > most:
                raise InvalidImage(f"{image.width} x {image.height} pixels; at most {most:,} are taken")
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidImage(f"the body is not a whole {format} image ({error})") from None
    return Decoded(pixels, NAME)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    return json_dialects.encode(outputs, decoded)
