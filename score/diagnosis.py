"""What the log says at the start: the load report, or why there is none."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from score.errors import LoadError
from score.served import Served

log = logging.getLogger("azmlinfsrv.score")

BOOT_ERROR = 3  # gunicorn stops its master on this exit code, instead of forking for ever


@contextmanager
def diagnosed() -> Iterator[None]:
    """End the worker on a `LoadError`, with the diagnosis as the last thing that it writes.

    azmlinfsrv would log a traceback and then the folder's tree, and push the diagnosis off the screen; so the process
    ends here.
    """
    try:
        yield
    except LoadError as error:
        log.error("the model can't be served\n\n%s\n", error.screen())
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(BOOT_ERROR)


def report(served: Served) -> None:
    """Log what was loaded and what it takes; at the end as JSON, for machines."""
    import orjson

    for line in served.report.lines():
        log.info("%s", line)
    takes = ", ".join(f"{spec.name}: {spec}" for spec in served.signature.inputs)
    log.info("takes %s (%s)", takes, served.signature.source)
    log.info("load report %s", orjson.dumps(served.report.as_dict(), default=str).decode())
