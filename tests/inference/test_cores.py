"""Threads by the cores that a process may really use: quotas of control groups, physical cores, workers."""

from pathlib import Path

import pytest

from score.inference import cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 processors on 4 cores, without a quota."""
    for name in ("_CGROUPS", "_TOPOLOGY"):
        monkeypatch.setattr(cores, name, tmp_path / name)
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for cpu in range(8):
        folder = tmp_path / "_TOPOLOGY" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text(f"{cpu % 4}\n")
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "_CGROUPS").mkdir()
    return tmp_path


def group(machine: Path, path: str, name: str, text: str) -> None:
    folder = machine / "_CGROUPS" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_two_threads_of_a_core_are_one_core(machine: Path) -> None:
    assert (cores.physical(), cores.quota(), cores.threads()) == (4, None, 4)


@pytest.mark.parametrize(
    ("text", "allowed", "threads"),
    [("max 100000\n", None, 4), ("100000 100000\n", 1.0, 1), ("150000 100000\n", 1.5, 2), ("900000 100000", 9.0, 4)],
)
def test_a_quota_of_version_2(machine: Path, text: str, allowed: float | None, threads: int) -> None:
    group(machine, "", "cpu.max", text)
    assert (cores.quota(), cores.threads()) == (allowed, threads)


def test_the_least_of_all_groups_above_counts(machine: Path) -> None:
    (machine / "own").write_text("0::/kubepods/pod1/box\n")
    group(machine, "kubepods", "cpu.max", "300000 100000")
    group(machine, "kubepods/pod1", "cpu.max", "200000 100000")
    group(machine, "kubepods/pod1/box", "cpu.max", "max 100000")
    assert cores.threads() == 2


def test_a_quota_of_version_1(machine: Path) -> None:
    (machine / "own").write_text("4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n")
    group(machine, "cpu/box", "cpu.cfs_quota_us", "200000\n")
    group(machine, "cpu/box", "cpu.cfs_period_us", "100000\n")
    assert cores.threads() == 2
    group(machine, "cpu/box", "cpu.cfs_quota_us", "-1\n")
    assert cores.threads() == 4


def test_workers_share(machine: Path) -> None:
    assert [cores.threads(workers) for workers in (1, 2, 3, 9)] == [4, 2, 1, 1]


def test_what_can_not_be_read_is_no_limit(machine: Path) -> None:
    group(machine, "", "cpu.max", "a lot")
    assert cores.quota() is None
    (machine / "own").unlink()
    assert cores.threads() == 4


def test_numbers_of_threads_that_are_tried() -> None:
    assert [cores.counts(most) for most in (1, 2, 3, 4, 6, 16)] == [
        *([1], [2, 1], [3, 2, 1], [4, 2, 1], [6, 4, 2, 1], [16, 8, 4, 2, 1])
    ]
