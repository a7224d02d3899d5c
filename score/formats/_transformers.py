"""transformers, for formats whose files say which of its classes their weights are of."""

from typing import Any

from score.errors import ArchitectureBroken


def library(builds: str) -> Any:
    """The package, which builds what is named. Raises `ArchitectureBroken` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ArchitectureBroken(
            f"{builds} built by transformers, which is not installed", hint="Install the extra `hf`."
        ) from None
    return transformers
