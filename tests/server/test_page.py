"""The page: one file, of our own parts, that fetches nothing from elsewhere."""

import re

from score.server.page import HEADERS, PAGE


def test_it_is_whole_and_needs_nothing_else() -> None:
    text = PAGE.decode()
    assert text.startswith("<!doctype html>")
    assert "{{" not in text
    assert "&lt;" not in text.partition("<script>")[2]  # our own script is not escaped
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", text) == ["data:,", "docs"]
    assert not re.search(r"https?://", text.replace("http://www.w3.org", ""))


def test_its_headers_let_nothing_in() -> None:
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'self'" in policy
