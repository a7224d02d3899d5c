"""Large bodies are decoded by a process of their own, so that nothing else waits for it.

Python's parsers hold the interpreter while they work: a thread that decodes 20 MB of JSON stops a whole server for as
long. So a small process, started before the model is loaded, forks a child for each large body; the child decodes it
and hands the arrays back in shared memory. What a body does to it ends with it: its memory and its time are bounded,
and it is the first that the kernel would end.
"""

import contextlib
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from score import errors, log
from score.codecs import multipart
from score.codecs import registry as codecs
from score.codecs.base import Body, Codec, Decoded, Items
from score.errors import InternalError, OutOfMemory, ScoreError
from score.inference import allocator

WORTH_IT = 64 << 10  # bytes to be parsed; below, handing them over takes longer than doing it
MOST_SECONDS = 60  # of work for one body
MOST_MEMORY = 8 << 30  # bytes of one child
_ROOT = str(Path(__file__).resolve().parents[2])
_ALIGNED = 64
# What decodes is imported once there is something to decode: until then it takes a quarter of the memory. Ctrl+C
# reaches all of a terminal's processes.
_HELPER = """
import select, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
select.select([{socket}], [], [])
sys.path[:0] = [{root!r}]
from score.server import decoder
decoder.serve({socket})
"""
_ABOUT = ("content_type", "json_length", "limit", "codec", "header")  # of a body, beside its bytes


class Decoder:
    """Decodes bodies in children of a helper process; in the calling thread where that process is not there."""

    def __init__(self) -> None:
        self._helper: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Before anything else is confined or threaded: afterwards nothing can be started any more."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = _HELPER.format(root=_ROOT, socket=theirs.fileno())
        with theirs:
            subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", script],
                pass_fds=[theirs.fileno()], cwd="/", env=allocator.without(os.environ),
            )  # fmt: skip
        self._helper = ours

    def stop(self) -> None:
        """The helper ends once nobody is at the other end."""
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def decode(self, body: Body) -> tuple[Codec, Decoded]:
        """What `codecs.choose(body).decode(body)` gives. Raises a `RequestError`."""
        if self._helper is not None and codecs.effort(body) > WORTH_IT:
            with contextlib.suppress(_HelperGone):
                return self._ask(body)
            log.error("the process that decodes large bodies is gone: threads do it from now on")
            self._helper = None
        codec = codecs.choose(body)
        return codec, codec.decode(body)

    def _ask(self, body: Body) -> tuple[Codec, Decoded]:
        assert self._helper is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs, _shared(body.data) as given:
            about = {each: getattr(body, each) for each in _ABOUT}
            try:
                with self._lock:
                    socket.send_fds(self._helper, [orjson.dumps(about)], [given, theirs.fileno()])
            except OSError:
                raise _HelperGone from None
            theirs.close()
            ours.settimeout(2 * MOST_SECONDS)
            try:
                said, received, _, _ = socket.recv_fds(ours, 1 << 20, 1)
            except TimeoutError:
                raise OutOfMemory("the body took too long to decode") from None
            if not said or not received:  # the child was ended: by its limits, or by the kernel
                raise OutOfMemory("the body takes more memory, or more time, to decode than one request may have")
            try:
                return _received(orjson.loads(said), received[0])
            finally:
                os.close(received[0])


class _HelperGone(Exception):
    """Nobody takes bodies any more. Never seen outside."""


@contextlib.contextmanager
def _shared(data: bytes) -> Iterator[int]:
    """Bytes in memory that another process can map: its file descriptor."""
    fd = os.memfd_create("body", os.MFD_CLOEXEC)
    try:
        _write(fd, memoryview(data))
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view[: 1 << 24]) :]


def _received(said: dict[str, Any], fd: int) -> tuple[Codec, Decoded]:
    if "error" in said:
        raise _error(said["error"])
    size = os.fstat(fd).st_size
    memory = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE) if size else b""
    arrays = {item["name"]: _array(memory, item) for item in said["arrays"]}
    found: Any = arrays if said["named"] else arrays[""]
    items = None
    if said["items"] is not None:
        items, found = Items(tuple(orjson.loads(found.data)), *said["items"]), np.empty(0)
    told = {"columns": tuple(said["columns"]), "top_k": said["top_k"], "items": items}
    return codecs.codecs()[said["codec"]], Decoded(found, said["dialect"], said["asked"], **told)


def _array(memory: Any, item: dict[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(item["dtype"]), item["shape"]
    if not item["count"]:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, item["count"], item["offset"]).reshape(shape)


def _error(said: dict[str, Any]) -> ScoreError:
    kind = errors.by_code()[said["code"]]
    return kind(said["message"], hint=said["hint"], detail=said["detail"])


def serve(number: int) -> None:
    """The helper process: fork a child for each body that comes, until the server is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    codecs.codecs()  # imported once
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    requests = socket.socket(fileno=number)
    while True:
        said, received, _, _ = socket.recv_fds(requests, 1 << 16, 2)
        if not said:
            return
        about = orjson.loads(said)
        if about["content_type"] == multipart.KIND:
            multipart.get_ready()
        if os.fork() == 0:
            requests.close()
            _limit()
            _answer(about, *received)
            os._exit(0)
        for fd in received:
            os.close(fd)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _answer(about: dict[str, Any], given: int, reply: int) -> None:
    out = os.memfd_create("arrays", os.MFD_CLOEXEC)
    try:
        with mmap.mmap(given, 0, prot=mmap.PROT_READ) as data:
            said = _decoded(Body(data[:], **about), _Writer(out).put)
    except MemoryError:
        said = {"error": _shown(OutOfMemory("the memory does not suffice to decode the body"))}
    except ScoreError as error:
        said = {"error": _shown(error)}
    except Exception as error:  # noqa: BLE001  # a bug: the server says so, and goes on
        said = {"error": _shown(InternalError(f"{type(error).__name__} while decoding the body"))}
    with socket.socket(fileno=reply) as answer:
        socket.send_fds(answer, [orjson.dumps(said)], [out])


def _decoded(body: Body, put: Callable[[np.ndarray], int]) -> dict[str, Any]:
    codec = codecs.choose(body)
    decoded = codec.decode(body)
    named = not isinstance(decoded.arrays, np.ndarray)
    arrays = decoded.arrays if not isinstance(decoded.arrays, np.ndarray) else {"": decoded.arrays}
    if decoded.items is not None:
        arrays = {"": np.frombuffer(orjson.dumps(decoded.items.values), np.uint8)}
    return {
        "codec": codec.NAME,
        "dialect": decoded.dialect,
        "asked": decoded.asked,
        "top_k": decoded.top_k,
        "columns": decoded.columns,
        "items": None if decoded.items is None else [decoded.items.single, decoded.items.parameters],
        "named": named,
        "arrays": [
            {"name": name, "dtype": array.dtype.str, "shape": array.shape, "count": array.size, "offset": put(array)}
            for name, array in arrays.items()
        ],
    }


class _Writer:
    """Puts arrays behind each other."""

    def __init__(self, fd: int) -> None:
        self._fd, self._at = fd, 0

    def put(self, array: np.ndarray) -> int:
        start = self._at
        _write(self._fd, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._at = -(-(start + array.nbytes) // _ALIGNED) * _ALIGNED
        os.lseek(self._fd, self._at, os.SEEK_SET)
        return start


def _shown(error: ScoreError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "detail": error.detail}
