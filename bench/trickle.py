"""What slow clients cost a quick one: the median time of a lone client's requests, with 500 others that send a byte a
second and without them.

    python bench/trickle.py [--connections 500] [--seconds 5] [--rounds 3] [--revision COMMIT]

Both are measured in turns against one server, which serves `tiny` as bench/serve.py does; medians of the rounds.
"""

import argparse
import http.client
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from contenders import CACHE, OURS, PORT, Case, contenders, environment_of, revision
from serve import first_answer, make_models, serving

HEAD = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@contextmanager
def trickling(connections: int) -> Iterator[list[int]]:
    """Connections of which each sends a byte of a request every second, from a thread; how many are open, once a
    second. What the server closes is opened again."""
    over, still_open = threading.Event(), []

    def work() -> None:
        clients: list[tuple[socket.socket, int]] = []
        while not over.wait(1.0):
            gone = selectors.DefaultSelector()
            for client, _ in clients:
                gone.register(client, selectors.EVENT_READ)
            ended = {key.fileobj for key, _ in gone.select(0)} if clients else set()
            gone.close()
            clients = [(client, at) for client, at in clients if client not in ended]
            for closed in ended:
                closed.close()  # type: ignore[union-attr]
            clients += [(socket.create_connection(("127.0.0.1", PORT)), 0) for _ in range(connections - len(clients))]
            for client, at in clients:
                client.send(HEAD[at % len(HEAD) : at % len(HEAD) + 1])
            clients = [(client, at + 1) for client, at in clients]
            still_open.append(len(clients) - len(ended))
        for client, _ in clients:
            client.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        time.sleep(2.5)
        yield still_open
    finally:
        over.set()
        thread.join()


def times(body: bytes, seconds: float) -> list[float]:
    """How long each request of one client takes, in milliseconds."""
    client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
    found, end = [], time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        client.request("POST", "/score", body, {"Content-Type": "application/json"})
        assert client.getresponse().read().startswith(b'{"predictions"')
        found.append((time.perf_counter() - started) * 1e3)
    client.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--revision", default="")
    given = parser.parse_args()
    folder = CACHE / "models"
    make_models(folder, ["tiny"])
    name = given.revision or OURS
    contender = revision(given.revision) if given.revision else contenders()[OURS]
    environment_of(name, contender)
    body = (folder / "tiny.json").read_bytes()
    alone, beside, connected = [], [], []
    with serving(name, contender, Case("tiny", folder / "tiny", "json")):
        first_answer("/score", folder / "tiny.json")
        times(body, 2)  # warm up
        for _ in range(given.rounds):
            alone.append(statistics.median(times(body, given.seconds)))
            with trickling(given.connections) as still_open:
                beside.append(statistics.median(times(body, given.seconds)))
                connected.append(min(still_open[-3:]))
    print(f"{name}: p50 {statistics.median(alone):.2f} ms alone, {statistics.median(beside):.2f} ms beside "
          f"{min(connected)} connections that send a byte a second: "
          f"{statistics.median(b / a for a, b in zip(alone, beside, strict=True)):.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
