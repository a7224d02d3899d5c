"""What a known library's block is rebuilt as: its parts are the file's, what it computes is written here."""

from typing import Any, ClassVar

from torch import nn


class Block(nn.Module):
    """A block rebuilt from a file.

    `PARTS` are its submodules, `MAY` those that it may lack (a fused block has lost some), `KEPT` its attributes,
    `NEEDS` those of them that it can't be without; `ANY` is for one that runs whatever parts it has.
    """

    def __getattr__(self, name: str) -> Any:
        """A part, or a tensor, by its name in the file."""
        return super().__getattr__(name)

    PARTS: ClassVar[frozenset[str]] = frozenset()
    MAY: ClassVar[frozenset[str]] = frozenset()
    KEPT: ClassVar[frozenset[str]] = frozenset()
    NEEDS: ClassVar[frozenset[str]] = frozenset()
    ANY: ClassVar[bool] = False

    def unknown(self) -> str:
        """Which of its attributes say that it computes something else than what is written here; mostly none."""
        return ""


class PlainSequential(Block, nn.Sequential):
    """One part after the other, of a class with attributes of its own."""

    ANY = True


def channels_of(network: nn.Module) -> int:
    """How many channels the pictures have that a network takes, by its first convolution."""
    return next((part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d)), 3)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())
