"""Large bodies, decoded by another process: the same arrays, the same errors, and it may go."""

import contextlib
import io
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from score.codecs import registry as codecs
from score.codecs.base import Body
from score.errors import InvalidJson, OutOfMemory, RaggedRows
from score.server import decoder
from score.server.decoder import Decoder

ROWS = np.arange(200_000.0).reshape(100, 2000)


@pytest.fixture
def helper() -> Iterator[Decoder]:
    found = Decoder()
    found.start()
    yield found
    found.stop()


def bodies() -> dict[str, Body]:
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, ROWS)
    np.savez(npz, a=ROWS.astype(np.float32), b=np.arange(3), c=np.empty((0, 4)))
    return {
        "json": Body(orjson.dumps({"data": ROWS.tolist()}), "application/json"),
        "named": Body(orjson.dumps({"inputs": {"a": ROWS.tolist(), "b": [1, 2]}})),
        "npy": Body(npy.getvalue(), "application/x-npy"),
        "npz": Body(npz.getvalue(), "application/x-npz"),
        "with parameters": Body(orjson.dumps({"inputs": ROWS.tolist(), "parameters": {"top_k": 3}})),
    }


@pytest.mark.parametrize("name", bodies())
def test_it_gives_what_the_codec_gives(name: str, helper: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "WORTH_IT", 0)
    body = bodies()[name]
    codec, found = helper.decode(body)
    own = codecs.choose(body)
    wanted = own.decode(body)
    assert codec is own
    assert (found.dialect, found.asked, found.top_k) == (wanted.dialect, wanted.asked, wanted.top_k)
    one = found.arrays if not isinstance(found.arrays, np.ndarray) else {"": found.arrays}
    other = wanted.arrays if not isinstance(wanted.arrays, np.ndarray) else {"": wanted.arrays}
    assert one.keys() == other.keys()
    for key, array in one.items():
        assert (array.dtype, array.shape) == (other[key].dtype, other[key].shape)
        assert np.array_equal(array, other[key])


def test_its_errors_are_the_codecs(helper: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "WORTH_IT", 0)
    with pytest.raises(InvalidJson, match="byte"):
        helper.decode(Body(b'{"data": [1,'))
    with pytest.raises(RaggedRows):
        helper.decode(Body(b'{"data": [[1], [1, 2]]}'))


def test_where_it_is_gone_threads_decode(
    helper: Decoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decoder, "WORTH_IT", 0)
    body = bodies()["json"]
    helper.decode(body)
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _is_helper(process):
            os.kill(int(process.name), signal.SIGKILL)
    with caplog.at_level(logging.ERROR, "azmlinfsrv.score"):
        while "is gone" not in caplog.text:
            with contextlib.suppress(OutOfMemory):  # the one that was given to it while it went
                found = helper.decode(body)[1]
    assert "is gone" in caplog.text
    assert np.array_equal(found.arrays, ROWS)  # type: ignore[arg-type]


def _is_helper(process: Path) -> bool:
    """A child of this very process that serves bodies."""
    try:
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and "decoder.serve" in (process / "cmdline").read_text()
    except OSError:
        return False
