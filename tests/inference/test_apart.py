"""Work in a thread of its own, whose OpenMP threads end with it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from score.inference.apart import apart


def test_it_returns_what_the_work_returns_in_another_thread_that_ends() -> None:
    seen: list[threading.Thread] = []
    assert apart(lambda: (seen.append(threading.current_thread()), 3)[1]) == 3
    assert seen[0] is not threading.current_thread() and not seen[0].is_alive()


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
def test_it_raises_what_the_work_raises(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        apart(fail)
    assert raised.value is error


COUNTS = """
import os, time, torch
from score.inference.apart import apart

def count():
    return len(os.listdir("/proc/self/task"))

def work():
    torch.rand(1000, 1000).exp()
    return count()

torch.set_num_threads(4)
before, during = count(), apart(work)
deadline = time.monotonic() + 30
while count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
print(during - before, count() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux counts threads there")
def test_its_openmp_threads_end_with_it() -> None:
    assert "OpenMP" in torch.__config__.parallel_info()
    found = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True).stdout.split()
    assert found == ["4", "0"]  # its own and three more that compute; then none of them
