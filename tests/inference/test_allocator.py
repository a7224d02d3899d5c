"""The allocator that a process begins with: tcmalloc where it is installed, and nobody chose another."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from score.inference import allocator
from tests.real_server import ROOT

HERE = Path(f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}") / allocator.LIBRARY
installed = pytest.mark.skipif(not HERE.exists(), reason="libtcmalloc-minimal4 is not installed")


def library(folder: Path) -> Path:
    folder.mkdir()
    (folder / allocator.LIBRARY).touch()
    return folder / allocator.LIBRARY


def test_it_is_preloaded_where_it_is_installed(tmp_path: Path) -> None:
    found = library(tmp_path / "b")
    library(tmp_path / "c")
    environment = {"PATH": "/bin"}
    assert allocator.preload(environment, [tmp_path / name for name in "abc"])
    assert environment == {
        "PATH": "/bin", "LD_PRELOAD": str(found), "TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": "0",
        "TBB_ENABLE_SANITIZERS": "1",
    }  # fmt: skip


@pytest.mark.parametrize("chosen", ["", "/usr/lib/libjemalloc.so.2"])
def test_what_somebody_chose_stays(tmp_path: Path, chosen: str) -> None:
    library(tmp_path / "lib")
    environment = {"LD_PRELOAD": chosen}
    assert not allocator.preload(environment, [tmp_path / "lib"])
    assert environment == {"LD_PRELOAD": chosen}


def test_without_it_nothing_changes(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    assert not allocator.preload(environment, [tmp_path])
    assert environment == {}


@pytest.mark.parametrize(
    ("preloaded", "left"),
    [
        ("/usr/lib/libtcmalloc_minimal.so.4", ""),
        ("/usr/lib/libjemalloc.so.2:/usr/lib/libother.so", "/usr/lib/libother.so"),
        ("/usr/lib/libother.so /usr/lib/libtcmalloc.so.4", "/usr/lib/libother.so"),
        ("", ""),
    ],
)
def test_a_process_that_computes_nothing_has_none(preloaded: str, left: str) -> None:
    found = allocator.without({allocator.PRELOAD: preloaded, "HOME": "/h"})
    assert found == {allocator.PRELOAD: left, "HOME": "/h"}
    assert allocator.without({"HOME": "/h"})[allocator.PRELOAD] == ""


def test_it_is_known_by_its_name(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    line = "7f4a9c7c6000-7f4a9c7d0000 r-xp 00000000 fe:00 5 {}\n"
    for path, name in {
        "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4.5.10": "tcmalloc",
        "/usr/lib/libjemalloc.so.2": "jemalloc",
        "/usr/lib/x86_64-linux-gnu/libc.so.6": "the system's",
        "/tmp/tcmalloc/libother.so": "the system's",
    }.items():
        maps.write_text(line.format(path))
        assert allocator.loaded(maps) == name
    assert allocator.loaded(tmp_path / "none") == "the system's"


RELEASED = """
import ctypes
from score.inference import allocator

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) // 1000

malloc = ctypes.CDLL(None).malloc
malloc.restype, free = ctypes.c_void_p, ctypes.CDLL(None).free
free.argtypes = [ctypes.c_void_p]
held = [malloc(100_000) for _ in range(3000)]
for each in held:
    ctypes.memset(each, 1, 100_000)
full = resident()
keep = held[-1]
for each in held[:-1]:
    free(each)
allocator.release()
print(full - resident(), allocator.loaded())
"""


@pytest.mark.parametrize("preloaded", ["", pytest.param(str(HERE), marks=installed)])
def test_memory_is_given_back(preloaded: str) -> None:
    environment = os.environ | {"LD_PRELOAD": preloaded, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", RELEASED], env=environment, capture_output=True, text=True, check=True)
    given_back, name = out.stdout.split(maxsplit=1)
    assert int(given_back) > 250, out.stdout
    assert name.strip() == ("tcmalloc" if preloaded else "the system's")


AGAIN = """
import sys
from score.inference import allocator
allocator.restart()
print(allocator.loaded(), sys.argv[1:], sys.flags.optimize)
"""


@installed
def test_a_command_begins_again_as_it_was_started(tmp_path: Path) -> None:
    script = tmp_path / "again.py"
    script.write_text(AGAIN)
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [sys.executable, "-O", str(script), "--inputs", "float32[N, 3]", ""]
    environment["PYTHONPATH"] = str(ROOT)
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "tcmalloc ['--inputs', 'float32[N, 3]', ''] 1"
    assert out.stderr == ""
    for chosen in ("", str(HERE)):
        out = subprocess.run(command, env=environment | {"LD_PRELOAD": chosen}, capture_output=True, text=True)
        assert out.stdout.startswith("tcmalloc" if chosen else "the system's"), out.stderr


LARGE = """
import torch
torch.ones(400_000_000)
"""


GRAPH = """
import numpy as np
import openvino
from openvino import opset13 as ops
taken = ops.parameter([-1, 8], openvino.Type.f32)
made = ops.matmul(taken, ops.constant(np.ones((8, 8), np.float32)), False, False)
core = openvino.Core()
compiled = core.compile_model(openvino.Model([made], [taken], "m"), "CPU")
compiled([np.ones((1, 8), np.float32)])
del compiled, core
"""


@installed
@pytest.mark.parametrize("script", [LARGE, GRAPH])
def test_what_runs_on_it_says_nothing(script: str) -> None:
    """Nothing about large tensors; and oneTBB's parts do not end the process."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    assert allocator.preload(environment)
    out = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
