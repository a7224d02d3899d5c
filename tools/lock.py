"""Write requirements.lock and requirements-dev.lock: `make lock`.

Each is what pip resolves in a fresh virtual environment, so what is locked has been installed together.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def resolved(*requirements: str) -> list[str]:
    """`name==version` for everything that installing the requirements brings, in order of name."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder) / "bin" / "pip"), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # A local version, such as torch's +cpu, says which build is here; the lock admits each build.
    return [re.sub(r"\+\w+$", "", line) for line in frozen.splitlines()]


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
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
    print(f"locked {len(runtime)} packages, {len(more)} more for development", file=sys.stderr)


if __name__ == "__main__":
    main()
