"""Which requests of different lengths are padded into one pass: those for which that takes the least time.

A pass is taken to cost a fixed time and a time for each token, padding included: on two cores of a CPU the first is
that of some dozens of tokens, on a GPU of thousands.
"""

from collections.abc import Sequence
from itertools import accumulate

AT_FIRST = 64.0  # tokens, until passes have been timed
LEAST, MOST = 16.0, 4096.0


def pass_cost(few: int, seconds: float, many: int, longer: float) -> float:
    """What a pass costs beside its tokens, in tokens: of `few` it takes `seconds`, of `many` `longer`."""
    a_token = (longer - seconds) / (many - few)
    return min(max(seconds / a_token - few, LEAST), MOST) if a_token > 0 else MOST


def together(lengths: Sequence[int], rows: Sequence[int], most: int, cost: float) -> list[int]:
    """Of requests in the order of their arrival, those that run with the oldest, by their places: of all ways to
    divide them into passes of at most `most` rows, padded to the longest, the one that takes the least time has these
    in one. `cost` is that of a pass, in tokens.

    Of requests of one row, some best division has only neighbours by length in a pass, so that dynamic programming
    finds it: the best for the shortest n is that for the shortest m and one pass of those between. Of others, it is the
    best that has only neighbours.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ends = [0, *accumulate(rows[at] for at in order)]
    best, begins = [0.0], [0]
    for last, at in enumerate(order, start=1):
        length, end = lengths[at], ends[last]
        least, begin = best[last - 1] + cost + rows[at] * length, last - 1
        for first in range(last - 2, -1, -1):
            taken = end - ends[first]
            if taken > most:
                break
            if (found := best[first] + cost + taken * length) < least:
                least, begin = found, first
        best.append(least)
        begins.append(begin)
    last = len(order)
    while 0 not in (group := order[begins[last] : last]):
        last = begins[last]
    return group
