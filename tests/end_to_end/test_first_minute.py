"""What a person sees who types `score serve`: a few lines that end in what to open and what to paste; and a browser
that goes to `/` is on the page.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.simple_model import SimpleModel
from tests.real_server import environment, free_port

SCORE = Path(sys.executable).parent / "score"


@contextlib.contextmanager
def served(model: Path, *options: str) -> Iterator[tuple[int, Path]]:
    """`score serve`, until it says that it is ready."""
    port, log = free_port(), model.parent / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [SCORE, "serve", model, "--port", str(port), "--host", "127.0.0.1", *options], stdout=out,
            stderr=subprocess.STDOUT, env=environment(), start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while "curl -s" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield port, log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.save(SimpleModel().state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_quiet_start_ends_in_what_to_open_and_to_paste(model: Path) -> None:
    with served(model, "--max-batch", "3") as (port, log):
        text = log.read_text()
        lines = text.strip().splitlines()
        assert lines[-2] == f"open http://127.0.0.1:{port}/score"
        assert len(lines) <= 15, text
        for noise in ("Traceback", "Server Settings", "gunicorn", "Extra keys", "Initializing", "load report"):
            assert noise not in text, text
        pasted = subprocess.run(shlex.split(lines[-1]), capture_output=True, text=True)
        assert '"predictions"' in pasted.stdout
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/score") as card:
            assert b'"max_batch":3' in card.read()


def test_a_browser_is_sent_to_the_page_and_a_probe_is_answered(model: Path) -> None:
    with served(model) as (port, _):
        browser = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Accept": "text/html,*/*;q=0.8"})
        with urllib.request.urlopen(browser) as page:
            assert page.geturl().endswith("/score")
            assert b"<title>Loadstone</title>" in page.read()
        for accept in ("*/*", "application/json"):
            probe = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Accept": accept})
            with urllib.request.urlopen(probe) as answer:
                assert answer.read() == b"Healthy"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/docs") as api:
            assert b"swagger-ui-bundle.js" in api.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/docs/swagger-ui-bundle.js") as script:
            assert len(script.read()) > 500_000
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/docs/../../etc/passwd")


def test_a_failed_start_ends_in_the_command_that_mends_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({name: SimpleModel().state_dict() for name in ("one", "two")}, folder / "model.pt")
    done = subprocess.run(
        [SCORE, "serve", folder, "--port", str(free_port()), "--host", "127.0.0.1"], capture_output=True, text=True,
        env=environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    assert (done.stdout + done.stderr).strip().splitlines()[-1] == f"score check {folder} --weights one"
