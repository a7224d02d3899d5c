"""The one policy on running code that comes from a model file: not without leave."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from score.errors import UntrustedCode
from score.weights.hashing import sha256


@dataclass(frozen=True)
class Trust:
    """What the operator allowed: everything (`code`), or the files with these SHA-256 digests."""

    code: bool = False
    sha256: frozenset[str] = frozenset()

    def allows(self, path: Path) -> bool:
        """Whether code from the file at `path` may run. The file is hashed only if digests are set."""
        return self.code or (bool(self.sha256) and sha256(path) in self.sha256)

    def require(self, path: Path, *, what: str, imports: Sequence[str] = ()) -> None:
        """Raise `UntrustedCode`, saying `what` would run and naming `imports`, unless `path` is allowed."""
        if self.allows(path):
            return
        digest = sha256(path)
        detail = [f"it would import or run: {name}" for name in imports] + [f"sha256: {digest}"]
        raise UntrustedCode(
            f"{path.name}: {what}, which runs code from the file",
            hint="If you know where the file comes from, allow exactly it with "
            f"SCORE_TRUST_SHA256={digest} (or any file with SCORE_TRUST_CODE=true).",
            detail="\n".join(detail),
        )
