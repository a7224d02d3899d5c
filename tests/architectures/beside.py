"""Libraries that a make target installed into `build/`, imported for as long as a test's files are written.

torchvision comes without its compiled operators, which are of another torch and which no network here needs.
"""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build"


@contextmanager
def torchvision() -> Iterator[None]:
    """The package, from build/torchvision; skips the test where it is not there."""
    folder = BUILD / "torchvision" / "torchvision"
    if not folder.is_dir():
        pytest.skip("make test-blocks installs the library")
    package, extension = types.ModuleType("torchvision"), types.ModuleType("torchvision.extension")
    package.__path__, package.__version__ = [str(folder)], "0.28.0"  # type: ignore[attr-defined]
    extension._assert_has_ops = extension._has_ops = lambda: False  # type: ignore[attr-defined]
    extension._load_library = lambda *_: None  # type: ignore[attr-defined]
    package.extension = extension  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.extension": extension}
    yield
    forget("torchvision")


@contextmanager
def blocks() -> Iterator[None]:
    """timm and segmentation-models-pytorch, from build/blocks, and the torchvision that they need."""
    if not (BUILD / "blocks" / "timm").is_dir():
        pytest.skip("make test-blocks installs the libraries")
    sys.path.insert(0, str(BUILD / "blocks"))
    with torchvision():
        yield
        forget("timm", "segmentation_models_pytorch")
    sys.path.remove(str(BUILD / "blocks"))


def forget(*libraries: str) -> None:
    """Have nothing of the libraries be imported any more: what is rebuilt has to do without."""
    for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
        del sys.modules[name]
