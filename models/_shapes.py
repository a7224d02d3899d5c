"""What `from_shapes` works on: a mapping from names to shapes, as `state_dict()` orders them."""

import re
from collections.abc import Iterable

from score.formats.base import Shapes as Shapes  # for the files here


def layers(shapes: Shapes, dims: int) -> list[str]:
    """The names of the layers whose weight has `dims` dimensions, in order."""
    return [
        name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith("weight") and len(shape) == dims
    ]


def only(shapes: Shapes, names: Iterable[str], parts: Iterable[str] = ("weight", "bias")) -> bool:
    """Whether the shapes are those of these layers, and of nothing else."""
    allowed = {f"{name}.{part}" for name in names for part in parts}
    return bool(shapes) and shapes.keys() <= allowed


def count(shapes: Shapes, pattern: str) -> int:
    """How many different first groups a pattern has among the names, such as `layer1\\.(\\d+)\\.`."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})
