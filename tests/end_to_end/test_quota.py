"""In a control group of the kernel that allows it one core, a server computes with as many threads as that is worth."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.real_server import Server, running

GROUPS = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds
CLIENTS, SECONDS = 8, 4.0
BUSY = 0.02  # of a core: what reads the requests is busy too


@pytest.fixture
def one_core() -> Iterator[Path]:
    """A control group with the time of one core; skipped where nobody but the container's owner may make one."""
    version_2 = (GROUPS / "cgroup.controllers").exists()
    group = (GROUPS if version_2 else GROUPS / "cpu") / f"loadstone-{os.getpid()}"
    try:
        group.mkdir()
        if version_2:
            (group / "cpu.max").write_text(f"{PERIOD} {PERIOD}")
        else:
            (group / "cpu.cfs_period_us").write_text(f"{PERIOD}")
            (group / "cpu.cfs_quota_us").write_text(f"{PERIOD}")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


def seconds_of_threads(pid: int) -> dict[str, float]:
    """The CPU time of each thread so far."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[task.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def busy(server: Server) -> int:
    """How many of the worker's threads take more than BUSY of a core while several clients ask."""
    worker = server.request(method="GET").json["serving"]["worker"]
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            assert server.post({"data": [[0.5] * 2048] * 16}).status == 200

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    ended.wait(1.0)
    before = seconds_of_threads(worker)
    ended.wait(SECONDS)
    after = seconds_of_threads(worker)
    ended.set()
    for client in clients:
        client.join()
    took = {thread: spent - before.get(thread, 0.0) for thread, spent in after.items()}
    assert sum(took.values()) > 0.2 * SECONDS, "the server had something to do"
    return sum(spent > BUSY * SECONDS for spent in took.values())


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core is all that there is")
def test_with_the_time_of_one_core_two_threads_are_busy_at_most(one_core: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    layers = [nn.Linear(2048, 2048)] * 40  # long passes, which take all cores that there are
    torch.save(nn.Sequential(*layers), tmp_path / "model" / "model.pt")
    score = Path(sys.executable).parent / "score"
    joined = ("sh", "-c", f'echo $$ > {one_core}/cgroup.procs && exec "$0" "$@"', score)
    with running(tmp_path / "model", tmp_path, command=(*joined, "serve", tmp_path / "model")) as server:
        assert busy(server) <= 2
