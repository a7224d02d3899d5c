"""A module that torch.fx traced: its parts are the file's, what it computes is read from the text that it brings."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from torch import nn

from score.architectures.block import Block, words
from score.formats._program import fx_code
from score.formats._program.fx_code import Function, NotAllowed


class Traced(Block):
    """`torch.fx.GraphModule`, run step by step; the text is never given to Python."""

    ANY = True
    KEPT = NEEDS = words("_code")

    def unknown(self) -> str:
        self.function  # noqa: B018  # raises where something in it is not allowed
        return ""

    @cached_property
    def function(self) -> Function:
        return fx_code.read(str(self._code), self._part)

    @cached_property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """With the inputs' own names, which the server asks for."""
        function = self.function

        def run(*given: Any, **named: Any) -> Any:
            bound = function.inputs.bind(*given, **named)
            bound.apply_defaults()
            return function(dict(bound.arguments))

        run.__signature__ = function.inputs  # type: ignore[attr-defined]
        return run

    def _part(self, path: tuple[str, ...]) -> Any:
        """A module or a tensor in this one. Nothing else of a module is reached."""
        found: Any = self
        for name in path:
            held = vars(found) if isinstance(found, nn.Module) else {}
            places = [held[group] for group in ("_modules", "_parameters", "_buffers") if name in held.get(group, ())]
            if not places:
                raise NotAllowed(f"self.{'.'.join(path)}, which is not in it")
            found = places[0][name]
        return found


def block(path: str) -> type[nn.Module] | None:
    """What runs a module of torch.fx's; None for any other class."""
    return Traced if path == "torch.fx.graph_module.GraphModule" else None
