"""Write every lock file: `make lock`; only those of the image, with the versions as they are: `make lock-image`.

`requirements.lock` and `requirements-dev.lock` are what pip resolves in a fresh virtual environment, so what is locked
has been installed together. `deploy/image-cpu.lock` and `deploy/image-gpu.lock` hold the same versions for the image's
platform (Linux on x86-64, Python 3.11), each wheel with its SHA-256, and the extras that the image brings.

torch's CPU build is not where pip looks by itself: name its index in pip's configuration (PIP_EXTRA_INDEX_URL).
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE_EXTRAS = ("hf", "image", "audio", "onnx", "grpc", "collect")


def resolved(*requirements: str) -> list[str]:
    """`name==version` for everything that installing the requirements brings, in order of name."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder) / "bin" / "pip"), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # A local version, such as torch's +cpu, says which build is here; the lock admits each build.
    return [re.sub(r"\+\w+$", "", line) for line in frozen.splitlines()]


def hashed(requirements: list[str], constraints: list[str], *pip_options: str) -> list[str]:
    """`name==version --hash=sha256:...` for the wheels that pip would install here, in order of name."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pinned, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        pinned.write_text("\n".join(constraints) + "\n")
        pip = [str(Path(folder, "bin", "pip")), "--disable-pip-version-check", *pip_options, "install", "--quiet"]
        only = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
        subprocess.run([*pip, *only, "-c", str(pinned), *requirements], check=True)
        found = json.loads(report.read_text())["install"]
    lines = [
        f"{item['metadata']['name']}=={item['metadata']['version']} "
        f"--hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}"
        for item in found
    ]
    return sorted(lines, key=str.lower)


def pins(name: str) -> list[str]:
    """The `name==version` lines of a lock file."""
    return [line for line in (ROOT / name).read_text().splitlines() if "==" in line]


def lock_packages(project: dict) -> None:
    runtime = resolved(*project["project"]["dependencies"])
    everything = resolved(*runtime, *project["dependency-groups"]["dev"])
    more = [line for line in everything if line not in runtime]
    (ROOT / "requirements.lock").write_text(
        "# Every package that the server runs on, exactly. Written by: make lock\n" + "\n".join(runtime) + "\n"
    )
    (ROOT / "requirements-dev.lock").write_text(
        "# What the tests, the lint and the example need on top. Written by: make lock\n-r requirements.lock\n"
        + "\n".join(more)
        + "\n"
    )
    site = resolved(*project["dependency-groups"]["docs"])
    (ROOT / "docs" / "requirements.lock").write_text(
        "# What `make docs` builds the site with. Written by: make lock\n" + "\n".join(site) + "\n"
    )
    print(f"locked {len(runtime)} packages, {len(more)} more for development", file=sys.stderr)


def lock_image(project: dict) -> None:
    runtime = pins("requirements.lock")
    extras = [line for extra in IMAGE_EXTRAS for line in project["project"]["optional-dependencies"][extra]]
    # --isolated leaves the user's configuration out, and so the CPU build of torch.
    for flavour, options in (("cpu", ()), ("gpu", ("--isolated",))):
        lines = hashed([*runtime, *extras], pins("requirements-dev.lock"), *options)
        if ("+cpu" in "".join(lines)) != (flavour == "cpu"):
            raise SystemExit(f"deploy/image-{flavour}.lock: pip finds another build of torch; see PIP_EXTRA_INDEX_URL")
        (ROOT / "deploy" / f"image-{flavour}.lock").write_text(
            f"# What the {flavour} image installs, exactly. Written by: make lock-image\n" + "\n".join(lines) + "\n"
        )
        print(f"locked {len(lines)} packages for the {flavour} image", file=sys.stderr)


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if sys.argv[1:] != ["image"]:
        lock_packages(project)
    lock_image(project)


if __name__ == "__main__":
    main()
