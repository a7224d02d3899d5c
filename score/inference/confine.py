"""The second line of defence: once the model is loaded, the worker gives up what it does not need any more.

Whatever a program or a library should be made to do, it then can't write outside of the temporary folder, start another
program, gain privileges, or open a connection. The first line is that nothing from a file runs at all.

- no-new-privileges: prctl(2).
- Landlock: files are read only, but for the temporary folder and devices. https://docs.kernel.org/userspace-api/landlock.html
- seccomp: no execve, no new internet sockets (what listens, listens already) unless something has to be exported, no
  tracing of other processes. https://docs.kernel.org/userspace-api/seccomp_filter.html
- memory: what would not fit is refused by the kernel to whoever asks for it, before the kernel ends the process.
"""

import ctypes
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score import log
from score.errors import ConfinementUnavailable
from score.settings import Settings

_PR_SET_NO_NEW_PRIVS = 38
_DENIED = (
    "execve",
    "execveat",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "bpf",
    "mount",
    "umount2",
    "init_module",
)
_INTERNET = (2, 10)  # AF_INET, AF_INET6
RESERVE = 64 << 20  # bytes of memory that are left for the error itself


def confine(settings: Settings) -> tuple[str, ...]:
    """Give up what serving does not need; what the kernel has of it, in words. For this process and all its threads to
    come, and for good. Raises `ConfinementUnavailable` where `SCORE_CONFINE=require` and something is missing."""
    if settings.confine == "off":
        return ("off",)
    done, missing = [], []
    steps: dict[str, Callable[[], Any]] = {}
    # Each is prepared before any is applied: libraries are found by running ldconfig, which is over then.
    for apply in (False, True):
        for name, prepare in _STEPS.items():
            try:
                if not apply:
                    steps[name] = prepare(settings)
                elif name in steps:
                    steps[name]()
                    done.append(name)
            except Exception as error:  # noqa: BLE001  # libraries, kernels and containers refuse in many ways
                missing.append(f"{name} ({type(error).__name__}: {error})")
    if missing and settings.confine == "require":
        raise ConfinementUnavailable(f"this kernel or container does not have {', '.join(missing)}")
    if missing:
        log.info("not confined by %s", "; ".join(missing))
    return tuple(done)


def _no_new_privileges(settings: Settings) -> Callable[[], Any]:
    if sys.platform != "linux":
        raise OSError("Linux only")
    libc = ctypes.CDLL(None, use_errno=True)

    def apply() -> None:
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return apply


def _landlock(settings: Settings) -> Callable[[], Any]:
    from py_landlock import Landlock

    rules: Any = Landlock(strict=False)
    rules.allow_read("/")
    rules.allow_read_write("/dev")
    rules.allow_read_write(tempfile.gettempdir())
    rules.allow_all_scope()  # the worker signals its master, and itself
    rules.allow_all_network()  # seccomp's, which knows more protocols
    _ = rules.abi_version  # raises where the kernel has none
    apply: Callable[[], Any] = rules.apply
    return apply


def _seccomp(settings: Settings) -> Callable[[], Any]:
    import pyseccomp

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.CTL_TSYNC, 1)
    refused = pyseccomp.ERRNO(1)  # EPERM
    for name in _DENIED:
        rules.add_rule(refused, name)
    if not _exports(settings):
        for family in _INTERNET:
            rules.add_rule(refused, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    load: Callable[[], Any] = rules.load
    return load


_STEPS = {"no-new-privileges": _no_new_privileges, "landlock": _landlock, "seccomp": _seccomp}


def _exports(settings: Settings) -> bool:
    """Whether something has to be sent from here: telemetry, or collected data."""
    return (
        os.environ.get("AML_APP_INSIGHTS_ENABLED") == "true"
        or bool(settings.collect_data)
        or any(name.startswith("OTEL_EXPORTER_") for name in os.environ)
    )


def limit_memory(model_dir: Path | None) -> int | None:
    """Have the kernel refuse memory that is not there, so that what asks for it gets an error: by how many bytes this
    process may grow; None where that is not known, or a GPU's driver reserves as it likes."""
    available = _available()
    if available is None or _has_gpu():
        return None
    files = _size(model_dir) if model_dir else 0  # mapped privately, which counts here and takes none
    grown = _status("VmData") + available + files - RESERVE
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if grown <= 0 or (hard != resource.RLIM_INFINITY and hard < grown):
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (grown, hard))
    return available


def _available() -> int | None:
    """Bytes of memory that this process could still take: what the machine has, and what its container allows."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found = min(found, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return max(found, 0)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def _size(folder: Path) -> int:
    try:
        files = [folder] if folder.is_file() else [item for item in folder.rglob("*") if item.is_file()]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
