"""How gunicorn is run: the addresses, and what its log leaves out."""

from types import SimpleNamespace
from typing import Any

import pytest

from score.errors import LoadError
from score.server import gunicorn_config


@pytest.mark.parametrize(
    ("arguments", "ipv6", "wanted"),
    [
        ("", True, ["[::]:5001"]),
        ("", False, ["0.0.0.0:5001"]),
        ("--threads 4 --bind 127.0.0.1:80 -b unix:/tmp/s", True, ["127.0.0.1:80", "unix:/tmp/s"]),
    ],
)
def test_where_it_listens(arguments: str, ipv6: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    monkeypatch.setattr(gunicorn_config, "_has_ipv6", lambda: ipv6)
    given = {"bind": ["0.0.0.0:5001"]}
    settings = {"bind": SimpleNamespace(get=lambda: given["bind"])}
    server = SimpleNamespace(cfg=SimpleNamespace(settings=settings, set=given.__setitem__))
    gunicorn_config.on_starting(server)
    assert given["bind"] == wanted


def test_after_a_failed_start_the_diagnosis_is_last(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("gunicorn.glogging.Logger.__init__", lambda self, cfg: None)
    monkeypatch.setattr("gunicorn.glogging.Logger.error", lambda self, msg, *args, **kwargs: said.append(msg))
    monkeypatch.setattr("gunicorn.glogging.Logger.access", lambda self, *args: said.append("access"))
    log: Any = gunicorn_config.Log(None)
    log.error("something else")
    log.error("Worker (pid:%s) exited with code %s", 7, LoadError.exit_code)
    log.error("Shutting down: Master")
    assert said == ["something else"]
    log.access(None, None, {"PATH_INFO": "/score"}, None)
    log.access(None, None, {"PATH_INFO": "/"}, None)
    assert said == ["something else", "access"]
