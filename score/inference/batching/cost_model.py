"""What a forward pass takes, learnt from those that ran."""

import math
from bisect import bisect_left


class CostModel:
    """Seconds that a forward pass takes, by its rows: a moving average at each power of two, and lines between."""

    def __init__(self) -> None:
        self._rows: list[int] = []  # powers of two, ascending
        self._seconds: list[float] = []

    def learn(self, rows: int, seconds: float) -> None:
        near = 1 << round(math.log2(rows))
        at = bisect_left(self._rows, near)
        if at < len(self._rows) and self._rows[at] == near:
            self._seconds[at] += 0.1 * (seconds - self._seconds[at])
        else:
            self._rows.insert(at, near)
            self._seconds.insert(at, seconds)

    def of(self, rows: float) -> float:
        """What `rows` take; zero where nothing is known, and in proportion beyond what is."""
        known = self._rows
        if not known:
            return 0.0
        at = bisect_left(known, rows)
        if at == len(known) or at == 0:
            at = max(at - 1, 0)
            return self._seconds[at] * rows / known[at]
        low, below = known[at - 1], self._seconds[at - 1]
        return below + (self._seconds[at] - below) * (rows - low) / (known[at] - low)

    def gain(self, rows: int, whole: int) -> float:
        """Seconds that one pass of `whole` rows takes less than one of `rows` and one of the others."""
        return self.of(rows) + self.of(whole - rows) - self.of(whole)
