"""Recordings: at other rates, too long, damaged; nothing but WAV and FLAC is read."""

import io

import numpy as np
import pytest
from scipy import signal

from score.codecs import audio
from score.codecs.base import Body
from score.errors import InvalidAudio, InvalidItem, UnsupportedMediaType
from score.inference.tasks import recordings

soundfile = pytest.importorskip("soundfile")


def tone(rate: int, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def written(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str = "FLOAT") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_another_rate_is_the_same_tone(rate: int) -> None:
    found = recordings.resampled(tone(rate), rate, 16_000)
    assert abs(len(found) - 8_000) <= 1
    inner = slice(200, 7_700)  # a filter has no samples beyond the ends
    np.testing.assert_allclose(found[inner], tone(16_000)[inner], atol=2e-3)
    theirs = signal.resample_poly(tone(rate), 16_000, rate)
    np.testing.assert_allclose(found[inner], theirs[inner], atol=1e-2)


def test_what_is_above_half_the_rate_is_gone() -> None:
    high = np.sin(2 * np.pi * 15_000 * np.arange(24_000) / 48_000).astype(np.float32)
    assert np.abs(recordings.resampled(high, 48_000, 16_000)[200:-200]).max() < 0.02


def test_channels_become_one_and_the_rate_is_the_files() -> None:
    stereo = np.stack([tone(8_000), np.zeros(4_000, np.float32)], axis=1)
    decoded = audio.decode(Body(written(stereo, 8_000)))
    np.testing.assert_allclose(decoded.arrays, tone(8_000) / 2, atol=1e-6)
    assert decoded.asked == 8_000


def test_limits_and_damage() -> None:
    with pytest.raises(InvalidItem, match="SCORE_MAX_AUDIO_SECONDS allows 1"):
        recordings.made(tone(8_000, 2.0), 8_000, 16_000, 1.0)
    whole = written(tone(16_000), 16_000, "FLAC", "PCM_16")
    for damaged in (
        whole[: len(whole) // 2],
        whole[:60],
        b"fLaC" + bytes(100),
        b"RIFF" + bytes(4) + b"WAVE" + bytes(50),
    ):
        with pytest.raises(InvalidAudio):
            audio.decode(Body(damaged))
    with pytest.raises(InvalidAudio, match="at most"):
        audio.decode(Body(written(tone(16_000), 16_000), limit=1_000))
    with pytest.raises(UnsupportedMediaType, match="WAV or FLAC"):
        audio.decode(Body(b"OggS" + bytes(100), "audio/ogg"))
