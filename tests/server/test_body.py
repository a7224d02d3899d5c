"""Bodies as they come in: counted, bounded, decompressed; and what was counted is given back."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from score.errors import (
    BodyTooLarge,
    InvalidGzip,
    InvalidTable,
    InvalidTensor,
    QueueFull,
    ScoreError,
    UnsupportedMediaType,
)
from score.server.body import Intake, Share, held
from score.settings import Settings


def intake(headers: dict[str, str] | None = None, **settings: float) -> Intake:
    found = Settings(**settings)
    return Intake(headers or {}, found, Share())


def test_pieces_become_one_body() -> None:
    found = intake({"content-type": "Application/JSON; charset=utf-8"})
    for piece in (b'{"da', b'ta": 1}'):
        found.add(piece)
    assert held.bytes == found.size == 11
    body = found.body()
    assert (body.data, body.content_type, body.json_length) == (b'{"data": 1}', "application/json", None)
    found.share.release()
    found.share.release()  # twice is once
    assert held.bytes == 0


def test_a_length_that_is_too_much_is_refused_before_a_byte() -> None:
    for said in ("1000001", "9" * 40):
        with pytest.raises(BodyTooLarge, match="1 MB"):
            intake({"content-length": said}, max_body_mb=1)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_was_counted_is_given_back_whatever_happens(compressed: bool) -> None:
    """A body that is refused while it comes in must not lower what others may hold, for good."""
    content = gzip.compress(bytes(3_000_000)) if compressed else bytes(3_000_000)
    for _ in range(5):
        found = intake({"content-encoding": "gzip"} if compressed else {}, max_body_mb=1)
        with pytest.raises(BodyTooLarge):
            for at in range(0, len(content), 65_536):
                found.add(content[at : at + 65_536])
            found.body()
        found.share.release()
        assert held.bytes == 0


def test_all_requests_together_are_bounded() -> None:
    one, other = intake(max_held_mb=1), intake(max_held_mb=1)
    one.add(bytes(700_000))
    with pytest.raises(QueueFull):
        other.add(bytes(700_000))
    other.share.release()
    assert held.bytes == 700_000
    one.share.release()


@pytest.mark.parametrize(
    ("headers", "content", "error"),
    [
        ({"content-encoding": "br"}, b"", UnsupportedMediaType),
        ({"content-encoding": "gzip"}, b"no gzip", InvalidGzip),
        ({"content-encoding": "x-gzip"}, gzip.compress(b"{}", mtime=0)[:-1], InvalidGzip),
        ({"inference-header-content-length": "3"}, b"{}", InvalidTensor),
        ({"inference-header-content-length": "-1"}, b"{}", InvalidTensor),
        ({"inference-header-content-length": "²"}, b"{}", InvalidTensor),
    ],
)
def test_what_is_wrong_with_a_body(headers: dict[str, str], content: bytes, error: type[ScoreError]) -> None:
    with pytest.raises(error):
        found = intake(headers)
        found.add(content)
        try:
            found.body()
        finally:
            found.share.release()
    assert held.bytes == 0


@given(parts=st.lists(st.binary(max_size=200), max_size=5), cut=st.integers(1, 64))
def test_gzip_members_in_any_pieces(parts: list[bytes], cut: int) -> None:
    content = b"".join(gzip.compress(part) for part in parts) or gzip.compress(b"")
    found = intake({"content-encoding": "gzip"})
    for at in range(0, len(content), cut):
        found.add(content[at : at + cut])
    assert found.body().data == b"".join(parts)
    found.share.release()
    assert held.bytes == 0


def test_deflate_is_taken_as_gzip_is() -> None:
    packed = zlib.compress(b'{"data": [1]}')
    intake = Intake({"content-encoding": "deflate"}, Settings.load(), Share())
    intake.add(packed)
    assert intake.body().data == b'{"data": [1]}'
    intake.share.release()
    intake = Intake({"content-encoding": "deflate"}, Settings.load(), Share())
    intake.add(b"nothing of the kind")
    with pytest.raises(InvalidGzip, match="zlib"):
        intake.body()
    intake.share.release()


@pytest.mark.parametrize(
    ("kind", "header", "length"),
    [
        ("text/csv", None, None),
        ("text/csv; header=present", True, None),
        ('Text/CSV;charset=utf-8;HEADER="absent"', False, None),
        ("application/vnd.sagemaker-triton.binary+json;json-header-size=3", None, 3),
    ],
)
def test_what_follows_the_content_type(kind: str, header: bool | None, length: int | None) -> None:
    intake = Intake({"content-type": kind}, Settings.load(), Share())
    intake.add(b"1,2,3")
    body = intake.body()
    intake.share.release()
    assert (body.header, body.json_length) == (header, length)


def test_a_header_that_is_neither_there_nor_absent() -> None:
    with pytest.raises(InvalidTable, match="present or absent"):
        Intake({"content-type": "text/csv; header=maybe"}, Settings.load(), Share()).body()
