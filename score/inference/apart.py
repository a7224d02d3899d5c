"""Work in a thread of its own, whose OpenMP threads end with it.

libgomp keeps threads for each thread that ever computed with several. Once there are more of them than cores, none
spins any more between the layers of a pass, and each is woken at every layer: what loads a model would cost every later
pass a third of its time. Source: libgomp, config/linux/wait.h and team.c (gomp_managed_threads).
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def apart(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises. The thread is none of an executor's: these are waited for where a signal ends the
    process."""
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            done.set_exception(error)

    thread = threading.Thread(target=run, name="load", daemon=True)
    thread.start()
    thread.join()
    return done.result()
