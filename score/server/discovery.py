"""Which models there are below a model folder, what each is called, and which settings are its own."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from score.errors import InvalidSetting
from score.settings import Settings, readable_name
from score.weights import base_model, locate
from score.weights.locate import Found

ALL = "all"
_SHOWN = 20  # names in a message


def chosen(settings: Settings) -> dict[str, Path]:
    """Those that `SCORE_MODELS` names, or all, by name. Raises a `LoadError`."""
    found = named(locate.find_checkpoints(settings))
    wanted = [name for name in settings.models if name != ALL]
    for name in wanted:
        if name not in found:
            raise InvalidSetting(
                f"SCORE_MODELS names {name!r}, and the model folder holds {listed(found) or 'no checkpoint'}"
            )
    return {name: found[name] for name in wanted or found}


def named(found: Iterable[Found]) -> dict[str, Path]:
    """Checkpoints by name: that of a folder that holds no other, else the file's without its suffix; of those that
    would be called the same, the path below the model folder with dots."""
    paths = {each.path: each.root for each in found}
    folders = [path.parent for path in paths]
    short = {
        path: path.name
        if path.is_dir()
        else path.parent.name
        if folders.count(path.parent) == 1 and path.parent != root
        else path.stem
        for path, root in paths.items()
    }
    taken = list(short.values())
    return {
        readable_name(short[path] if taken.count(short[path]) == 1 else ".".join(path.relative_to(root).parts)): path
        for path, root in paths.items()
    }


def settings_of(name: str, path: Path, settings: Settings) -> Settings:
    """A model's own settings: the deployment's, over the `score.toml` in its folder; an adapter's has its base model,
    which lies elsewhere in the model folder. Raises `InvalidSetting`."""
    folder, checkpoint = (path, None) if path.is_dir() else (path.parent, path.name)
    root = Path(os.path.abspath(settings.model_dir or folder))  # noqa: PTH100  # resolve() would follow links
    base = settings.base or base_model.find(path, root)
    return Settings.load(folder, checkpoint=checkpoint, model_name=name, base=base)


def files(path: Path) -> Iterator[Path]:
    """A checkpoint's."""
    yield from (each for each in path.rglob("*") if each.is_file()) if path.is_dir() else (path,)


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
