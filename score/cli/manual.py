"""What each error means: `score explain CODE`, and docs/errors.md."""

import re

from score import errors
from score.errors import LoadError, ScoreError


def cause(kind: type[ScoreError]) -> str:
    """What brings an error about, as the tree in the docstring of `score.errors` says it."""
    assert errors.__doc__ is not None
    found = re.search(rf"[├└]── {kind.__name__} +(?:\d{{3}}, )?(.*)", errors.__doc__)
    assert found is not None, f"the tree lacks {kind.__name__}"
    return found[1].strip()


def meaning(kind: type[ScoreError]) -> str:
    """The cause as a sentence, with what the error becomes outside."""
    where = "the model can't be loaded: exit code 3" if issubclass(kind, LoadError) else f"HTTP {kind.status}"
    said = cause(kind)
    return f"{said[:1].upper()}{said[1:]} ({where})."
