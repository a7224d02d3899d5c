"""Match a model's keys to a checkpoint's, and explain the difference. Pure functions of names and shapes.

By hand: torch's `load_state_dict` knows of no prefixes, and transformers' loader goes on where keys are missing.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from score.errors import PrefixAmbiguous
from score.formats.base import Shape, Shapes

# Attribute names that wrappers put between a module and its parameters: DataParallel, torch.compile, FSDP,
# activation checkpointing, DeepSpeed, SWA. They may stand anywhere in a key, and nest.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
TABLE_ROWS = 20


@dataclass(frozen=True)
class Alignment:
    """Which checkpoint key fills each of the model's, and what is left over on either side.

    `prefix` is what was stripped from the checkpoint's keys, `added` what was put before them, `unwrapped` whether
    wrapper names inside keys were dropped. `absent` lists keys of the model that the checkpoint may leave out.
    """

    mapping: Mapping[str, str]
    prefix: str = ""
    added: str = ""
    unwrapped: bool = False
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def loads(self) -> bool:
        """Whether every value that the model needs is there, in its shape."""
        return not self.missing and not self.misshaped

    @property
    def exact(self) -> bool:
        """Whether it loads and nothing of the checkpoint is left over."""
        return self.loads and not self.unexpected


def align(
    model: Shapes, weights: Shapes, *, tied: Iterable[Iterable[str]] = (), prefix: str | None = None
) -> Alignment:
    """The best match of `weights` to `model`.

    `tied` groups model keys that are one tensor, of which a checkpoint may hold any; `prefix` forces what is stripped.
    Raises `PrefixAmbiguous` where two prefixes match all of the model equally well.
    """
    plain = {key: key for key in weights}
    best = _best(model, weights, plain, prefix)
    if any(WRAPPERS & set(key.split(".")) for key in weights):
        bare = {unwrap(key): key for key in weights}
        if len(bare) == len(plain) and bare.keys() != plain.keys():
            unwrapped = _best(model, weights, bare, prefix)
            if _matched(model, weights, unwrapped[2]) > _matched(model, weights, best[2]):
                return _finish(model, weights, *unwrapped, tied, unwrapped=True)
    return _finish(model, weights, *best, tied, unwrapped=False)


def unwrap(key: str) -> str:
    """A key without the names that wrappers added."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def common_wrapper(keys: Iterable[str]) -> str:
    """The wrapper prefix, such as `module.` or `_orig_mod.module.`, that all of `keys` begin with; empty if none."""
    prefixes = {_leading_wrappers(key) for key in keys}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _leading_wrappers(key: str) -> str:
    parts = key.split(".")
    count = 0
    while count < len(parts) - 1 and parts[count] in WRAPPERS:
        count += 1
    return "".join(f"{part}." for part in parts[:count])


def _best(
    model: Shapes, weights: Shapes, names: Mapping[str, str], forced: str | None
) -> tuple[str, str, dict[str, str]]:
    """(prefix stripped, prefix added, mapping from model key to weight key) with the most matches.

    Candidates are only those prefixes under which some key of the checkpoint meets one of the model.
    """
    if forced is not None:
        return forced, "", _strip(model, names, forced)
    stripped = _tally((name, key, names[name]) for name in names for key in _tails(name) if key in model)
    added = _tally((key, name, name) for key in model for name in _tails(key) if name in names)
    scores: dict[tuple[str, str], tuple[int, int]] = {}
    for prefix, pairs in stripped.items():
        scores[prefix, ""] = _score(model, weights, ((key, weight) for _, key, weight in pairs))
    for prefix, pairs in added.items():
        if prefix:
            scores["", prefix] = _score(model, weights, ((key, names[name]) for key, name, _ in pairs))
    if not scores:
        return "", "", {}
    top = max(scores.values())
    winners = sorted((pair for pair, score in scores.items() if score == top), key=lambda pair: len("".join(pair)))
    if len(winners) > 1 and winners[0] != ("", ""):
        winners = _without_ema(winners)
    needed = sum(key.rpartition(".")[2] != "num_batches_tracked" for key in model)
    if len(winners) > 1 and winners[0] != ("", "") and top[0] >= needed:
        listed = "\n".join(f"{'add' if add else 'strip'} {add or strip}" for strip, add in winners[:TABLE_ROWS])
        raise PrefixAmbiguous(
            f"{len(winners)} prefixes match {top[0]} of {len(model)} keys",
            detail=listed,
            choices=[{"prefix": strip} for strip, add in winners if not add],
        )
    strip, add = winners[0]
    if add:
        return "", add, {add + name: key for name, key in names.items() if add + name in model}
    return strip, "", _strip(model, names, strip)


def _without_ema(winners: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """An averaged copy beside the model is taken only when asked for."""
    plain = [pair for pair in winners if "ema" not in pair[0].lower() and "average" not in pair[0].lower()]
    return plain or winners


def _strip(model: Shapes, names: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Strip where the prefix stands; keys that lack it keep their name."""
    mapping = {name[len(prefix) :]: key for name, key in names.items() if name.startswith(prefix)}
    for name, key in names.items():
        if not name.startswith(prefix) and name in model:
            mapping.setdefault(name, key)
    return {name: key for name, key in mapping.items() if name in model}


def _tails(key: str) -> Iterable[str]:
    """`a.b.c`, `b.c`, `c`."""
    yield key
    at = key.find(".")
    while at >= 0:
        yield key[at + 1 :]
        at = key.find(".", at + 1)


def _tally(found: Iterable[tuple[str, str, str]]) -> dict[str, list[tuple[str, str, str]]]:
    """Group (long, short, ...) by what has to be cut from the long name to get the short one."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for long, short, key in found:
        groups.setdefault(long[: len(long) - len(short)], []).append((long, short, key))
    return groups


def _score(model: Shapes, weights: Shapes, pairs: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """(keys that match in name and shape, keys that match in name)."""
    total = exact = 0
    for key, weight in pairs:
        total += 1
        exact += model[key] == weights[weight]
    return exact, total


def _matched(model: Shapes, weights: Shapes, mapping: Mapping[str, str]) -> tuple[int, int]:
    return _score(model, weights, mapping.items())


def _finish(
    model: Shapes,
    weights: Shapes,
    prefix: str,
    added: str,
    mapping: dict[str, str],
    tied: Iterable[Iterable[str]],
    *,
    unwrapped: bool,
) -> Alignment:
    misshaped = tuple(key for key in model if key in mapping and model[key] != weights[mapping[key]])
    missing = [key for key in model if key not in mapping]
    absent = {key for key in missing if key.rpartition(".")[2] == "num_batches_tracked"}
    for group in map(set, tied):
        if group & mapping.keys():
            absent |= group - mapping.keys()
    used = set(mapping.values())
    return Alignment(
        mapping={key: mapping[key] for key in model if key in mapping},
        prefix=prefix,
        added=added,
        unwrapped=unwrapped,
        missing=tuple(key for key in missing if key not in absent),
        unexpected=tuple(key for key in weights if key not in used),
        misshaped=misshaped,
        absent=tuple(key for key in missing if key in absent),
    )


def difference(alignment: Alignment, model: Shapes, weights: Shapes) -> str:
    """A table for people: each missing key beside its nearest unexpected one, then shapes that differ."""
    rows: list[tuple[str, str]] = []
    left = list(alignment.unexpected)
    by_shape = Counter(weights[key] for key in left)
    for key in alignment.missing[:TABLE_ROWS]:
        near = _nearest(key, model[key], left, weights, by_shape)
        if near:
            left.remove(near)
        rows.append((f"{key} {_sized(model[key])}", f"{near} {_sized(weights[near])}" if near else "-"))
    lines = _columns(("missing in the checkpoint", "nearest unexpected key"), rows)
    lines += _more("missing", len(alignment.missing) - TABLE_ROWS)
    shapes = [
        (f"{key} {_sized(model[key])}", f"{alignment.mapping[key]} {_sized(weights[alignment.mapping[key]])}")
        for key in alignment.misshaped[:TABLE_ROWS]
    ]
    lines += _columns(("shape in the model", "shape in the checkpoint"), shapes)
    lines += _more("mis-shaped", len(alignment.misshaped) - TABLE_ROWS)
    if left:
        shown = [f"{key} {_sized(weights[key])}" for key in left[:TABLE_ROWS]]
        lines += _columns(("unexpected in the checkpoint", ""), [(line, "") for line in shown])
        lines += _more("unexpected", len(left) - TABLE_ROWS)
    return "\n".join(lines)


def _nearest(key: str, shape: Shape, left: list[str], weights: Shapes, by_shape: Counter[Shape]) -> str | None:
    """The unexpected key most like `key`: of the same shape if there is any, then by name."""
    pool = [other for other in left if weights[other] == shape] if by_shape[shape] else left
    pool = pool or left
    ranked = sorted(pool[:500], key=lambda other: -difflib.SequenceMatcher(None, key, other).ratio())
    return ranked[0] if ranked else None


def _sized(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _columns(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    width = max(len(left) for left, _ in [head, *rows])
    return [f"{left:<{width}}   {right}".rstrip() for left, right in [head, *rows]]


def _more(what: str, count: int) -> list[str]:
    return [f"... and {count:,} more {what}"] if count > 0 else []
