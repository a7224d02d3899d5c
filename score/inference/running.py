"""How a model is run, for its card and the log."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Running:
    """The backend, who chose it, how much quicker it is than torch and how far from its answers, all that was tried,
    the most rows of a pass, the threads where fewer than all are quicker, and whether they are its own and not
    torch's."""

    backend: str
    source: str
    speedup: float | None = None
    error: float | None = None
    tried: tuple[dict[str, Any], ...] = ()
    most_rows: int | None = None
    threads: int | None = None
    own_threads: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.backend, "source": self.source, "speedup": self.speedup, "error": self.error,
            "most_rows": self.most_rows, "threads": self.threads, "tried": list(self.tried),
        }  # fmt: skip

    def __str__(self) -> str:
        known = f", {self.speedup:.1f} x as quick as torch" if self.speedup else ""
        apart = f", answers {self.error:.1e} apart" if self.error is not None else ""
        threads = f", {self.threads} of its threads" if self.threads else ""
        return f"{self.backend} ({self.source}{known}{apart}{threads})"


EAGER = Running("eager", "torch as it is")
