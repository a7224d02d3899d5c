"""Forms with files: as `curl -F` sends them."""

import base64
import io

import numpy as np
import pytest

from score.codecs import multipart, registry
from score.codecs.base import Body
from score.errors import InvalidForm, InvalidImage

KIND = "multipart/form-data"


def png(at: int = 1) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), at, np.uint8)).save(out, format="PNG")
    return out.getvalue()


def form(*parts: tuple[str, str, str, bytes]) -> bytes:
    """Name, file name (none for a field), content type, content."""
    found = b""
    for name, file, kind, content in parts:
        named = f'; filename="{file}"' if file else ""
        typed = f"Content-Type: {kind}\r\n" if kind else ""
        found += f'--b0undary\r\nContent-Disposition: form-data; name="{name}"{named}\r\n{typed}\r\n'.encode()
        found += content + b"\r\n"
    return found + b"--b0undary--\r\n"


def decoded(data: bytes) -> object:
    body = Body(data, KIND)
    assert registry.choose(body).NAME == multipart.NAME
    return multipart.decode(body)


def test_one_file_is_what_it_is_by_itself() -> None:
    found = decoded(form(("file", "a.png", "image/png", png())))
    assert (found.dialect, found.arrays.shape, found.items) == ("image", (4, 5, 3), None)  # type: ignore[attr-defined]
    out = io.BytesIO()
    np.save(out, np.arange(6.0).reshape(2, 3))
    found = decoded(form(("file", "a.npy", "application/octet-stream", out.getvalue())))
    np.testing.assert_array_equal(found.arrays, np.arange(6.0).reshape(2, 3))  # type: ignore[attr-defined]


def test_several_files_and_parameters_are_items() -> None:
    parameters = ("parameters", "", "", b'{"top_k": 2}')
    two = decoded(form(("a", "a.png", "image/png", png(1)), ("b", "b.png", "image/png", png(2)), parameters))
    items = two.items  # type: ignore[attr-defined]
    assert [base64.b64decode(value) for value in items.values] == [png(1), png(2)]
    assert (items.single, items.parameters) == (False, {"top_k": 2})
    one = decoded(form(("a", "a.png", "image/png", png(1)), parameters))
    assert one.items.single  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"no form", "boundary"),
        (form(("parameters", "", "", b"{}")), "no file"),
        (form(("a", "a.png", "image/png", png()), ("parameters", "", "", b"[]")), "no JSON object"),
        (form(("a", "a.png", "image/png", png()), ("other", "", "", b"x")), "'other'"),
        (form(("a", "a.png", "image/png", png()))[:-30], "not whole"),
        (form(*[("a", "a.png", "image/png", b"x")] * 1001), "1,000 parts"),
    ],
)
def test_what_is_no_whole_form_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidForm, match=says):
        decoded(data)


def test_a_damaged_file_is_the_files_error() -> None:
    with pytest.raises(InvalidImage):
        decoded(form(("a", "a.png", "image/png", png()[:40])))
