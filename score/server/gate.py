"""All connections of a server: how many there may be, and whose time has come."""

from typing import Protocol

from score.errors import QueueFull, ScoreError
from score.server.heads import ParsedHeads
from score.server.quick import Quick


class Connection(Protocol):
    """`silent` is one that has never sent a byte, `idle` one between requests."""

    silent: bool

    @property
    def idle(self) -> bool: ...

    def abort(self) -> None: ...

    def refuse(self, error: ScoreError) -> None:
        """Answer with an error, and end."""

    def check(self, now: float) -> None:
        """Give up on what takes too long."""


class Gate:
    """`quick` answers what needs no application; while it is `draining`, nothing does."""

    def __init__(self, most: int, quick: Quick | None = None) -> None:
        self.most, self.quick = most, quick
        self.draining = False
        self.heads = ParsedHeads() if quick is None else ParsedHeads(quick.head)
        self.connections: dict[Connection, None] = {}  # in the order in which they came

    def admit(self, connection: Connection) -> None:
        """A new connection; another may have to go for it, or it itself."""
        self.connections[connection] = None
        if len(self.connections) > self.most:
            others = [each for each in self.connections if each is not connection]
            silent = next((each for each in others if each.silent), None)
            idle = silent or next((each for each in others if each.idle), None)
            if idle is not None:
                idle.abort()
            else:
                connection.refuse(QueueFull(f"there are {self.most:,} connections already"))

    def leave(self, connection: Connection) -> None:
        self.connections.pop(connection, None)

    def sweep(self, now: float) -> None:
        """Give up on those whose time has come. To be called every now and then."""
        for connection in list(self.connections):
            connection.check(now)
