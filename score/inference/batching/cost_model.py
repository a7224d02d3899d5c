"""What a forward pass takes, learnt from those that ran."""

import itertools
import math


class CostModel:
    """Seconds that a forward pass takes, by its rows: a moving average at each power of two, and lines between."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, rows: int, seconds: float) -> None:
        near = 1 << round(math.log2(rows))
        known = self._seconds.get(near)
        self._seconds[near] = seconds if known is None else known + 0.1 * (seconds - known)

    def of(self, rows: float) -> float:
        """What `rows` take; zero where nothing is known, and in proportion beyond what is."""
        points = sorted(self._seconds.items())
        for (low, below), (high, above) in itertools.pairwise(points):
            if low <= rows <= high:
                return below + (above - below) * (rows - low) / (high - low)
        if not points:
            return 0.0
        last, seconds = points[0] if rows < points[0][0] else points[-1]
        return seconds * rows / last

    def gain(self, rows: int, whole: int) -> float:
        """Seconds that one pass of `whole` rows takes less than one of `rows` and one of the others."""
        return self.of(rows) + self.of(whole - rows) - self.of(whole)
