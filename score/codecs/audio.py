"""`audio`: a WAV or FLAC file, in; for models whose task takes recordings. Answers are JSON.

The body is read by libsndfile. Channels become one by their mean, as transformers does it; the rate stays the file's.
"""

import importlib.util
import io

import numpy as np

from score.codecs import json_dialects
from score.codecs.base import Arrays, Body, Decoded, Encoded
from score.errors import InvalidAudio, UnsupportedMediaType

NAME = "audio"
TYPES = ("application/json",)
PRIORITY = 30
EXAMPLES = (("`audio/wav`, `audio/flac`: a recording, for models whose task takes one", "curl", "as the task answers"),)
_KINDS = ("audio/", "video/ogg")
MOST_SAMPLES = 1 << 28


def accepts(body: Body) -> bool:
    return _format(body) is not None or body.content_type.startswith(_KINDS)


def _format(body: Body) -> str | None:
    """As libsndfile calls it."""
    if body.data[:4] == b"RIFF" and body.data[8:12] == b"WAVE":
        return "WAV"
    return "FLAC" if body.data[:4] == b"fLaC" else None


def effort(body: Body) -> int | None:
    """FLAC is packed, to about a half; four times is more than any."""
    format = _format(body)
    return None if format is None else 4 * len(body.data)


def decode(body: Body) -> Decoded:
    """The samples, float32[T], and how many there are a second. Raises `InvalidAudio`."""
    format = _format(body)
    if format is None:
        raise UnsupportedMediaType(f"{body.content_type}: recordings are taken as WAV or FLAC")
    if importlib.util.find_spec("soundfile") is None:
        raise UnsupportedMediaType("recordings need soundfile here", hint="Install the extra `audio`.")
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(body.data)) as file:
            most = min(MOST_SAMPLES, 4 * body.limit)
            if file.format != format or file.frames * file.channels > most:
                raise InvalidAudio(f"{file.frames:,} samples of {file.channels} channels; at most {most:,} are taken")
            samples = file.read(dtype="float32", always_2d=True)
            rate, said = int(file.samplerate), file.frames
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise InvalidAudio(f"the body is not a whole {format} file ({error})") from None
    if len(samples) != said or not len(samples):
        raise InvalidAudio(f"the {format} file says that it has {said:,} samples, and has {len(samples):,}")
    return Decoded(np.ascontiguousarray(samples.mean(axis=1)), NAME, asked=rate)


def encode(outputs: Arrays, decoded: Decoded) -> Encoded:
    return json_dialects.encode(outputs, decoded)
