"""Recognise every architecture of every installed provider, from random weights: writes bench/recognise.md.

    python bench/recognise.py [--most 200] [--out FILE]

Each architecture is built on the meta device, its names and shapes are what a checkpoint would hold, and recognition is
asked. Right: it answers with that architecture, or with one that gives the same outputs on the same weights (a class of
models/, a twin of another library). Ambiguous: it names several, this one among them. Wrong: anything else.
`--most` takes that many of each provider, evenly spread.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn

from score.architectures import fingerprints, recognition
from score.architectures.libraries import PROVIDERS
from score.architectures.meta_init import on_meta, shapes
from score.errors import ArchitectureAmbiguous, ArchitectureUndecided, LoadError
from score.formats.base import TensorRef
from score.weights.select import Candidate

OUT = Path(__file__).with_name("recognise.md")
OUTCOMES = ("right", "right, as a class of models/", "ambiguous", "wrong", "not recognised")


def judged(name: str) -> tuple[str, str, str, float]:
    """The architecture's name, the outcome, what was answered, and the seconds that the look-up took."""
    warnings.filterwarnings("ignore")
    package, _, rest = name.partition(":")
    module = on_meta(lambda: PROVIDERS[package].build(rest))
    wanted = shapes(module)
    refs = {key: TensorRef("float32", shape, 4, object(), torch.empty(0).clone) for key, shape in wanted.items()}
    began = time.perf_counter()
    fingerprints.found(wanted)
    took = time.perf_counter() - began
    try:
        found = recognition.recognise(Candidate("", refs, "weights"))
    except ArchitectureAmbiguous as error:
        return name, "ambiguous" if name in error.message else "wrong", error.message, took
    except (ArchitectureUndecided, LoadError) as error:
        return name, "not recognised", error.message, took
    if found is None:
        return name, "not recognised", "", took
    own = next(each for each in fingerprints.index().prints if each.name == name)
    if ":" not in found.name:
        assert found.build is not None
        return name, OUTCOMES[1] if same_answers(name, found.build()) else "wrong", found.name, took
    twins = [each.name for each in fingerprints.index().by_full[own.full] if each.structure == own.structure]
    return name, "right" if found.name in twins else "wrong", found.name, took


def same_answers(name: str, ours: nn.Module) -> bool:
    """Whether a class of models/ gives a library's answers on its weights."""
    package, _, rest = name.partition(":")
    theirs = PROVIDERS[package].build(rest).eval()
    try:
        state = theirs.state_dict()
        (within,) = {key.removesuffix("fc.weight") for key in state if key.endswith("fc.weight")} or {""}
        ours.eval().load_state_dict({key.removeprefix(within): value for key, value in state.items()})
        with torch.inference_mode():
            image = torch.rand(1, 3, 96, 96)
            answer = theirs(image)
            return torch.allclose(ours(image), getattr(answer, "logits", answer), rtol=1e-3, atol=1e-4)
    except (RuntimeError, TypeError, ValueError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    names: list[str] = []
    for package, provider in PROVIDERS.items():
        listed = [each.name for each in fingerprints.index().prints if each.name.startswith(f"{package}:")]
        if provider.installed:
            names += listed[:: max(1, len(listed) // given.most)]
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(judged, names, chunksize=8))
    lines = [f"| provider | architectures | {' | '.join(OUTCOMES)} |", "|---|--:|" + "--:|" * len(OUTCOMES)]
    for package in [*PROVIDERS, "all"]:
        part = [outcome for name, outcome, _, _ in results if package == "all" or name.startswith(f"{package}:")]
        if part:
            counts = Counter(part)
            lines.append(f"| {package} | {len(part)} | {' | '.join(str(counts[each]) for each in OUTCOMES)} |")
    right = sum(outcome.startswith("right") for _, outcome, _, _ in results)
    decidable = sum(outcome != "ambiguous" for _, outcome, _, _ in results)
    seconds = sorted(took for *_, took in results)
    versions = ", ".join(f"{name} {version}" for name, version in fingerprints.index().versions.items())
    text = [
        "# Recognised by keys and shapes", "", f"Written by `bench/recognise.py`; {versions}.", "", *lines, "",
        f"Right: {right / len(results):.1%} of all, {right / decidable:.1%} of those whose keys and shapes no other "
        "architecture has. The look-up takes "
        f"{statistics.median(seconds) * 1e3:.1f} ms in the median and {seconds[-1] * 1e3:.0f} ms at most, "
        "with the index loaded.", "", "Not right, and not ambiguous:", "",
        *(f"- {name}: {outcome}{': ' + answer[:150] if answer else ''}" for name, outcome, answer, _ in results
          if outcome in ("wrong", "not recognised")),
    ]  # fmt: skip
    given.out.write_text("\n".join(text) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
