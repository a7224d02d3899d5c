"""What comes closest where no architecture fits: registered ones by their keys, the libraries' by an estimate."""

from score.architectures import fingerprints, recognition
from score.architectures.meta_init import shapes
from score.errors import ArchitectureBroken, PrefixAmbiguous
from score.formats.base import Shapes
from score.weights.select import Candidate


def nearest(weights: Candidate) -> str:
    """What comes closest, best first, with the first differences; and the weights' first keys."""
    lines = [*_nearest_registered(weights), *_nearest_indexed(weights.shapes())]
    keys = [f"{name} {list(tensor.shape)}" for name, tensor in list(weights.tensors.items())[:8]]
    more = [f"... and {len(weights.tensors) - 8:,} more"] if len(weights.tensors) > 8 else []
    return "\n".join(
        ["nearest architectures:", *(lines or ["none has anything in common"]), "the weights:", *keys, *more]
    )


def _nearest_registered(weights: Candidate) -> list[str]:
    rows = []
    for fit in recognition.fits(recognition.registered_models().values(), weights.shapes(), {}):
        if fit.undecided:
            continue
        try:
            candidate, alignment = recognition.aligned(fit, weights, recognition.SOURCE)
        except (ArchitectureBroken, PrefixAmbiguous):
            continue
        wanted = len(shapes(candidate.module))
        matched = len(alignment.mapping) - len(alignment.misshaped)
        odd = [f"no {name}" for name in alignment.missing] + [f"{name} differs" for name in alignment.misshaped]
        odd += [f"{name} is left over" for name in alignment.unexpected]
        first = f" ({'; '.join(odd[:2])})" if odd else ""
        rows.append((matched / max(wanted, 1), f"{candidate.name}: {matched} of {wanted} keys match{first}"))
    return [line for share, line in sorted(rows, reverse=True)[:3] if share > 0]


def _nearest_indexed(given: Shapes, shown: int = 3) -> list[str]:
    """Providers' architectures by the estimated share of keys and shapes in common."""
    best: dict[str, float] = {}
    for _, view in fingerprints.views(given):
        drawn = fingerprints.sketch(view)
        for each in fingerprints.index().prints:
            share = fingerprints.resemblance(drawn, each.sketch)
            best[each.name] = max(share, best.get(each.name, 0.0))
    ranked = sorted(best.items(), key=lambda pair: -pair[1])[:shown]
    return [f"{name}: about {share:.0%} of keys and shapes in common" for name, share in ranked if share >= 0.1]
