"""How many threads a process should compute with: the cores that it may really use, and not those that it sees.

A container with a quota of 2 of 64 cores sees 64; with as many threads, each waits for all others at every layer.
Sources: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), cgroup-v1/cpu.rst, and cputopology.rst.
"""

import math
import os
from pathlib import Path

_CGROUPS, _TOPOLOGY, _OWN = Path("/sys/fs/cgroup"), Path("/sys/devices/system/cpu"), Path("/proc/self/cgroup")


def threads(workers: int = 1) -> int:
    """Threads for each of some workers: physical cores of those that this process may run on, at most as many as its
    quota allows, shared among the workers."""
    cores = min(physical(), quota() or math.inf)
    return max(1, math.ceil(cores) // workers)


def counts(most: int) -> list[int]:
    """Numbers of threads that are worth trying, the most first: all, and powers of two below."""
    return [most, *(1 << power for power in reversed(range((most - 1).bit_length())))]


def physical() -> int:
    """The physical cores that this process may run on: two threads of one share what computes."""
    try:
        mine = os.sched_getaffinity(0)
    except (AttributeError, OSError):  # not Linux
        return os.cpu_count() or 1
    known = {place for cpu in mine if (place := _place(cpu)) is not None}
    return len(known) or len(mine) or 1


def _place(cpu: int) -> tuple[str, str] | None:
    folder = _TOPOLOGY / f"cpu{cpu}" / "topology"
    try:
        return (folder / "physical_package_id").read_text().strip(), (folder / "core_id").read_text().strip()
    except OSError:
        return None


def quota() -> float | None:
    """How many cores' time the process's control groups allow it, the least of all above it; None without a limit."""
    found = [limit for path, kind in _groups() if (limit := _limit(path, kind)) is not None]
    return min(found, default=None)


def _groups() -> list[tuple[Path, str]]:
    """The folders of the process's control groups and of those above, with the version of each."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        kind = "v1" if controllers else "v2"
        tops = [_CGROUPS / name for name in (("cpu", "cpu,cpuacct") if controllers else ("", "unified"))]
        parts = [part for part in place.split("/") if part and part != ".."]
        # In a container the groups above are not there, and its own is the top of what it sees.
        for top in tops:
            found += [(top.joinpath(*parts[:count]), kind) for count in range(len(parts), -1, -1)]
    return found


def _limit(folder: Path, kind: str) -> float | None:
    try:
        if kind == "v2":
            most, period = (folder / "cpu.max").read_text().split()
        else:
            most = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(most) / int(period) if most.strip() != "max" and int(most) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None
