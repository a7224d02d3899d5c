"""Load each YAML file with azure-ai-ml's own loaders, offline: `make azure-test`.

It runs in an environment of its own, since azure-ai-ml conflicts with the server's pins. Prints a line for each file;
exit code 1 where a file is refused, or where a file that is broken on purpose is not.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from azure.ai.ml import load_batch_endpoint, load_online_deployment, load_online_endpoint  # noqa: E402
from azure.ai.ml._utils._asset_utils import get_ignore_file, get_upload_files_from_folder  # noqa: E402
from azure.ai.ml.entities._load_functions import load_model_batch_deployment  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
LOADERS = {
    "deployment.yml": load_online_deployment,
    "deploy/endpoint.yml": load_online_endpoint,
    "deploy/deployment-curated.yml": load_online_deployment,
    "deploy/deployment-gpu.yml": load_online_deployment,
    "deploy/deployment-collect.yml": load_online_deployment,
    "deploy/kubernetes-endpoint.yml": load_online_endpoint,
    "deploy/kubernetes-deployment.yml": load_online_deployment,
    "deploy/batch-endpoint.yml": load_batch_endpoint,
    "deploy/batch-deployment.yml": load_model_batch_deployment,
}
# What code is made of here; a checkpoint, a cache or a data set that strays into the upload is another kind, or larger.
CODE = {".py", ".toml", ".gz", ".html", ".js", ".css", ".typed"}
LARGEST_FILE = 500_000  # bytes; the largest of ours is the table of fingerprints, 364 kB


def refusal(path: Path, loader) -> str | None:
    """What the loader says against a file; None where it takes it."""
    try:
        loader(path)
    except Exception as error:  # noqa: BLE001  # marshmallow's, the package's own and Python's, as it comes
        return f"{type(error).__name__}: {error}"
    return None


def problems() -> list[str]:
    found = []
    for name, loader in LOADERS.items():
        wrong = refusal(ROOT / name, loader)
        print(f"{'refused' if wrong else 'ok':<8} {name}")
        found += [f"{name}: {wrong}"] if wrong else []
        with tempfile.NamedTemporaryFile("w", suffix=".yml", dir=(ROOT / name).parent) as broken:
            broken.write((ROOT / name).read_text() + "\nno_such_field: 1\n")
            broken.flush()
            if refusal(Path(broken.name), loader) is None:
                found.append(f"{name}: a field that does not exist is taken, so this check checks nothing")
    uploaded = get_upload_files_from_folder(ROOT, ignore_file=get_ignore_file(ROOT))
    rooms = {relative.split("/")[0] for _, relative in uploaded}
    sizes = {relative: Path(path).stat().st_size for path, relative in uploaded}
    print(f"code: {len(sizes)} files, {sum(sizes.values()) / 1e3:.0f} kB, of {', '.join(sorted(rooms))}")
    if rooms != {"score", "models"}:
        found.append(f".amlignore lets {sorted(rooms)} through, not score and models")
    for relative, size in sizes.items():
        if Path(relative).suffix not in CODE or size > LARGEST_FILE:
            found.append(f".amlignore lets {relative} through, {size} bytes: no code of ours")
    return found


if __name__ == "__main__":
    wrong = problems()
    print(*wrong, sep="\n", file=sys.stderr)
    sys.exit(bool(wrong))
