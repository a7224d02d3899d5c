"""The folder `models/`, under a name of its own: `models` is what hundreds of projects call their package.

In here it is `loadstone_models`. The name `models` stands for it only as long as nothing else on the path has that
name, so that files in the folder may say `from models import register`, and pickles that name `models.yolo.Model` find
the project that they are of.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

OWN, COMMON = "loadstone_models", "models"
FOLDER = Path(__file__).resolve().parents[2] / "models"


class _Finder(MetaPathFinder):
    """Finds our folder by where it is, and `models` by who has it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == OWN and not (FOLDER.parent / OWN).is_dir():  # where it was installed, it has its name
            init = FOLDER / "__init__.py"
            return importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(FOLDER)])
        if name == COMMON:
            return _theirs() or ModuleSpec(name, _Alias(), is_package=True)
        if name.startswith(f"{COMMON}.") and _is_ours():
            return ModuleSpec(name, _Alias())
        return None


class _Alias(Loader):
    """Has `models` and what is in it be ours."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        sys.modules[name] = importlib.import_module(OWN + name.removeprefix(COMMON))


def _theirs() -> ModuleSpec | None:
    """A package or module called `models` that is not ours. A folder without code is none: most hold checkpoints."""
    elsewhere = [place for place in sys.path if not _same(Path(place or ".") / COMMON, FOLDER)]
    spec = PathFinder.find_spec(COMMON, elsewhere)
    if spec is None or spec.origin is not None:
        return spec
    return spec if any(_code_in(spec.submodule_search_locations or ())) else None


def _code_in(folders: Sequence[str]) -> Iterator[Path]:
    for folder in folders:
        yield from Path(folder).glob("*.py")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other
    except OSError:
        return False


def _is_ours() -> bool:
    return sys.modules.get(COMMON) is not None and sys.modules.get(COMMON) is sys.modules.get(OWN)


def holds(path: str) -> bool | None:
    """Whether a class path such as `models.yolo.Model` leads to something in our folder; None where it begins with
    another name, or where another project on the path is called `models`."""
    top, _, rest = path.partition(".")
    if top not in (OWN, COMMON) or (top == COMMON and not _is_ours() and (COMMON in sys.modules or _theirs())):
        return None
    part = rest.partition(".")[0]
    return importlib.util.find_spec(f"{OWN}.{part}") is not None or hasattr(importlib.import_module(OWN), part)


def give_way() -> None:
    """Let `models` mean whatever is first on the path now, as code of a file's own may need it to."""
    if _is_ours():
        for name in [name for name in sys.modules if name == COMMON or name.startswith(f"{COMMON}.")]:
            del sys.modules[name]


def install() -> None:
    """Once, before anything of the folder is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
