"""Passes that do not come back."""

import subprocess
import sys
import threading
import time

from score.errors import ModelStuck
from score.inference import watchdog


def test_what_runs_is_known_while_it_runs() -> None:
    assert watchdog.running_for() == 0.0
    with watchdog.forward_pass():
        time.sleep(0.02)
        assert watchdog.running_for() >= 0.02
        assert not watchdog.hopeless()
    assert watchdog.running_for() == 0.0


def test_a_pass_that_raises_is_over() -> None:
    try:
        with watchdog.forward_pass():
            raise ValueError
    except ValueError:
        pass
    assert watchdog.running_for() == 0.0


def test_it_calls_once_a_pass_takes_too_long() -> None:
    called = threading.Event()
    errors: list[ModelStuck] = []
    watchdog.watch(0.1, lambda error: (errors.append(error), called.set())[0])
    with watchdog.forward_pass():
        assert called.wait(10)
    assert errors[0].code == "model_stuck"
    watchdog.watch(0, lambda error: errors.append(error))  # zero is never
    assert len(errors) == 1


def test_a_command_ends_with_the_reason() -> None:
    script = (
        "import time; from score.inference import watchdog; watchdog.watch(0.1, watchdog.end_command)\n"
        "with watchdog.forward_pass(): time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == ModelStuck.exit_code
    assert done.stderr.startswith("ERROR model_stuck: a forward pass has run for")
