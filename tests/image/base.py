"""The base that the image is built on in the tests: the pinned one where it can be pulled, else a stand-in.

The stand-in is Debian of the same release with its own Python 3.11, from Debian's packages: what the Dockerfile does
with it is the same, so a machine that reaches no image registry can still build and run the image.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.image import DOCKER, ROOT, Engine

STAND_IN = "localhost/loadstone-stand-in-base"
PACKAGES = "ca-certificates,python3,python3-venv"
PULL_SECONDS = 60


def base_image(engine: Engine) -> str:
    """The name of a base image that is here. Says on standard output which."""
    pinned = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert pinned
    named = os.environ.get("BASE_IMAGE")
    if named or _pulled(engine, f"docker.io/library/{pinned[1]}"):
        print(f"base: {named or pinned[1]}")
        return named or f"docker.io/library/{pinned[1]}"
    if subprocess.run([*engine.run, "image", "inspect", STAND_IN], capture_output=True).returncode:
        _make_opaque(engine)
    print(f"base: {STAND_IN}, since {pinned[1]} can't be pulled here")
    return STAND_IN


def _pulled(engine: Engine, name: str) -> bool:
    try:
        return subprocess.run([*engine.run, "pull", name], capture_output=True, timeout=PULL_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _make_opaque(engine: Engine) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder, "root.tar")
        if shutil.which("mmdebstrap"):
            left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
            options = ["--variant=apt", f"--include={PACKAGES}", "--quiet", *left_out]
            subprocess.run(["mmdebstrap", *options, "bookworm", str(tar)], check=True)
        else:
            root = Path(folder, "root")
            options = ["--variant=minbase", f"--include={PACKAGES}"]
            subprocess.run(["debootstrap", *options, "bookworm", str(root)], check=True, stdout=subprocess.DEVNULL)
            left_out = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]
            subprocess.run(["tar", *left_out, "-C", str(root), "-cf", str(tar), "."], check=True)
            shutil.rmtree(root)
        context = Path(folder, "context")
        context.mkdir()
        tar.rename(context / "root.tar")
        (context / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
        quiet = [] if engine is DOCKER else ["--quiet"]
        subprocess.run([*engine.build, *quiet, "--tag", STAND_IN, str(context)], check=True, stdout=subprocess.DEVNULL)
