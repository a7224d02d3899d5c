"""Write score/architectures/fingerprints.json.gz: `make fingerprints`. Needs torchvision, timm and transformers.

Each architecture of each provider is built on the meta device, one process a core. Those that can't be built without
further arguments are left out, and counted.
"""

import json
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from score.architectures import fingerprints
from score.architectures.fingerprints import Fingerprint
from score.architectures.libraries import PROVIDERS
from score.architectures.meta_init import on_meta, shapes

MOST_KEYS = 20_000


def printed(name: str) -> Fingerprint | str:
    """An architecture's print, or why there is none."""
    warnings.filterwarnings("ignore")
    package, _, rest = name.partition(":")
    try:
        module = on_meta(lambda: PROVIDERS[package].build(rest))
        found = fingerprints.relevant(shapes(module))
        if not 2 <= len(found) <= MOST_KEYS:
            return f"{name}: {len(found)} keys"
        head = fingerprints.head_of(module)
        return Fingerprint(
            name, fingerprints.digest(found), fingerprints.digest(found, head), head, fingerprints.structure(module),
            fingerprints.sketch(found), len(found),
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001  # what libraries raise where arguments are missing
        return f"{name}: {type(error).__name__}: {str(error)[:100]}"


def unified(prints: list[Fingerprint]) -> list[Fingerprint]:
    """Those that two image libraries have under the same keys, and that give the same outputs on the same weights, get
    the same structure: the libraries print them differently."""
    groups: dict[str, list[Fingerprint]] = {}
    for one in prints:
        groups.setdefault(one.full, []).append(one)
    found = {one.name: one for one in prints}
    for group in groups.values():
        packages = {one.name.partition(":")[0] for one in group}
        if packages == {"timm", "torchvision"} and len({one.structure for one in group}) > 1:
            answered = outputs([one.name for one in group])
            for at, one in enumerate(group):
                first = next(before for before in range(at + 1) if torch.equal(answered[before], answered[at]))
                found[one.name] = replace(one, structure=group[first].structure)
    return list(found.values())


def outputs(names: list[str]) -> list[torch.Tensor]:
    """What each answers to the same image, with the weights of the first."""
    modules = []
    for name in names:
        torch.manual_seed(0)
        package, _, rest = name.partition(":")
        modules.append(PROVIDERS[package].build(rest).eval())
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for module in modules[1:]:
            module.load_state_dict(modules[0].state_dict())
        return [module(image) for module in modules]


def main() -> None:
    names = [
        f"{package}:{name}"
        for package, provider in PROVIDERS.items()
        if provider.installed
        for name in provider.names()
    ]
    with ProcessPoolExecutor(2) as pool:
        made = list(pool.map(printed, names, chunksize=8))
    prints = [found for found in made if isinstance(found, Fingerprint)]
    refused = [found for found in made if isinstance(found, str)]
    versions = {name: provider.version for name, provider in PROVIDERS.items() if provider.installed}
    prints = unified(prints)
    fingerprints.write(prints, versions)
    print(*refused, sep="\n", file=sys.stderr)
    print(f"{len(prints)} architectures of {json.dumps(versions)}, {len(refused)} left out, ", end="", file=sys.stderr)
    print(f"{fingerprints.FILE.stat().st_size / 1e3:.0f} kB", file=sys.stderr)
    assert np.all([len(one.sketch) for one in prints])


if __name__ == "__main__":
    main()
