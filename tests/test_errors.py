"""Every error has a code, a status and a hint, and reads the same everywhere."""

import re
import subprocess
import sys
import tomllib

import pytest

from score import errors
from score.errors import LoadError, RequestError, ScoreError, WeightsMismatch, every_error
from tools import errors_page


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__)
    abstract = {"LoadError", "RequestError"}
    assert set(drawn) - abstract == {kind.__name__ for kind in every_error()}
    assert len(drawn) == len(set(drawn))


def test_each_cause_is_the_sentence_in_the_tree() -> None:
    assert errors.__doc__ is not None
    said = re.findall(r"[├└]── (\w+) +(?:\d{3}, )?(.*)", errors.__doc__)
    for name, sentence in said:
        if name not in ("LoadError", "RequestError"):
            assert getattr(errors, name).cause == sentence.strip()


def test_errors_are_explained_without_docstrings() -> None:
    command = [sys.executable, "-OO", "-m", "score.cli.app", "explain", "wrong_shape"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Another shape than the model's (HTTP 400)." in done.stdout


def test_every_error_has_all_that_a_user_needs() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(codes) == len(set(codes))
    for kind in every_error():
        error = kind("what was found")
        assert re.fullmatch(r"[a-z_]+", kind.code)
        assert error.hint.endswith((".", "?")), kind
        assert set(error.as_dict()) == {"code", "message", "hint", "docs"}
        expected = 503 if issubclass(kind, LoadError) else kind.status
        assert error.status == expected
        assert issubclass(kind, (LoadError, RequestError))


def test_statuses_are_those_that_the_docstring_says() -> None:
    assert errors.__doc__ is not None
    for name, status in re.findall(r"── (\w+) +(\d{3})", errors.__doc__):
        assert getattr(errors, name).status == int(status), name


def test_one_screen() -> None:
    error: ScoreError = WeightsMismatch("keys differ", hint="Do this.", detail="a\nb")
    assert error.screen() == (
        "ERROR weights_mismatch: keys differ\n  a\n  b\nWhat to do: Do this.\nMore: score explain weights_mismatch"
    )
    assert error.as_dict()["detail"] == "a\nb"


def test_the_page_has_a_section_for_each_code_and_is_up_to_date() -> None:
    text = errors_page.rendered()
    assert errors_page.PAGE.read_text() == text, "run: python -m tools.errors_page"
    for kind in every_error():
        assert f"\n### {kind.code}\n\n" in text
        assert kind("found").as_dict()["docs"] == f"score explain {kind.code}"
        assert kind.example
        assert kind.hint in text.replace("&lt;", "<")
    assert "\n\n (" not in text  # each has a cause


def test_an_error_names_its_place_on_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors.WrongShape("x").as_dict()["docs"] == "score explain wrong_shape"
    monkeypatch.setenv("SCORE_DOCS_URL", "https://example.com/loadstone/")
    assert errors.WrongShape("x").as_dict()["docs"] == "https://example.com/loadstone/errors/#wrong_shape"
    assert errors.WrongShape("x").screen().endswith("More: https://example.com/loadstone/errors/#wrong_shape")


def test_every_error_is_explained_with_more_than_its_screen() -> None:
    told = tomllib.loads(errors.EXPLAINED.read_text())
    assert list(told) == [kind.code for kind in every_error()]
    for kind in every_error():
        why, worked = kind.explained()
        assert why.endswith("."), kind
        assert why != kind.hint
        assert worked.strip(), kind
