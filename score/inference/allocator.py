"""Which library gives this process its memory.

The large tensors of a forward pass come and go. glibc hands their memory back to the kernel each time, and the next
pass gets it again page by page, each one cleared: on a CPU up to half of the time of a convolutional network. tcmalloc
keeps it, and takes less at its peak (`bench/allocator.py`). It has to be there before a process begins, by LD_PRELOAD.
https://gperftools.github.io/gperftools/tcmalloc.html
"""

import ctypes
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

PRELOAD = "LD_PRELOAD"
LIBRARY = "libtcmalloc_minimal.so.4"  # of Debian's and Ubuntu's libtcmalloc-minimal4
_FOLDERS = tuple(Path("/usr") / name for name in (f"lib/{sysconfig.get_config_var('MULTIARCH')}", "lib64", "lib"))
_KNOWN = re.compile(r"/lib(tcmalloc|jemalloc|mimalloc)[^/]*\.so")
_BESIDE = {
    # It writes a line about each gigabyte that is asked for at once.
    "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": "0",
    # oneTBB, which OpenVINO has, loads parts of itself so that they find glibc's functions first (RTLD_DEEPBIND): what
    # one allocator gave goes back to the other. Sanitizers are in the same place, and it has a switch for them.
    "TBB_ENABLE_SANITIZERS": "1",
}


def preload(environment: MutableMapping[str, str], folders: Iterable[Path] = _FOLDERS) -> bool:
    """Have processes that begin with this environment use tcmalloc, where it is installed. Whether that changed
    anything: what `LD_PRELOAD` says already stays, even if it is nothing."""
    found = next((path for folder in folders if (path := folder / LIBRARY).is_file()), None)
    if found is None or PRELOAD in environment:
        return False
    environment[PRELOAD] = str(found)
    for name, value in _BESIDE.items():
        environment.setdefault(name, value)
    return True


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that computes nothing: an allocator takes some megabytes by itself. What else is
    preloaded stays."""
    preloaded = re.split("[: ]+", environment.get(PRELOAD, ""))
    others = ":".join(path for path in preloaded if not _KNOWN.search(path))
    return {**environment, PRELOAD: others}


def restart() -> None:
    """Begin this command again with tcmalloc, where it is installed and not in use; to be called before anything else.
    Does not return then."""
    if preload(os.environ):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # as it was started


def loaded(maps: Path = Path("/proc/self/maps")) -> str:
    """The allocator of this process, by its name."""
    try:
        found = _KNOWN.search(maps.read_text())
    except OSError:  # not Linux
        found = None
    return found[1] if found else "the system's"


def release() -> None:
    """Give the kernel the memory that is free, as after a model was unloaded; allocators keep it for what comes."""
    process = ctypes.CDLL(None)
    if hasattr(process, "MallocExtension_ReleaseFreeMemory"):  # tcmalloc's own
        process.MallocExtension_ReleaseFreeMemory()
    elif hasattr(process, "malloc_trim"):  # glibc's
        process.malloc_trim(0)
