"""How far something is: what takes its time goes through names with a `Track`, and its caller shows how far it is."""

from collections.abc import Callable, Iterable, Sequence

Track = Callable[[Sequence[str]], Iterable[str]]  # gives the names back, one by one; `iter` shows nothing
