"""The worker: what gunicorn's master imports for it, and how many connections it takes."""

import resource
import subprocess
import sys

import pytest

from score.server import worker


def test_the_master_imports_no_torch() -> None:
    script = "import sys; from score.server import gunicorn_config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("limits", "wanted", "most"),
    [((4096, 4096), 1000, 1000), ((512, 512), 1000, 512 - 128), ((100, 100), 1000, 1), ((256, 4096), 1000, 1000)],
)
def test_as_many_connections_as_there_are_descriptors(
    limits: tuple[int, int], wanted: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, given: raised.append(given))
    assert worker._connections(wanted) == most
    assert raised == ([(limits[1], limits[1])] if limits[0] != limits[1] else [])


def test_unlimited_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert worker._connections(700) == 700
