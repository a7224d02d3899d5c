"""Which way a model is run: what the settings say, what a tuned file found, or torch as it is."""

import time
from pathlib import Path
from typing import Any

import torch

from score import log
from score.errors import InvalidSetting, LoadError
from score.inference.infer_signature import device_of
from score.inference.predictor import Predictor
from score.inference.running import EAGER, Running
from score.inference.tuning import samples, trial, tuned_file, verify
from score.inference.tuning.backends import BACKENDS, eager
from score.inference.tuning.backends.base import Built, in_short, quiet
from score.inference.tuning.swap import Fits, swap
from score.inference.tuning.trial import Outcome
from score.inference.tuning.tuned_file import Tuned
from score.weights.trust import Trust

AUTO = "auto"


def applied(predictor: Predictor, checkpoint: Path) -> Running:
    """Have a loaded model run in the way that is wanted, or found. Raises `InvalidSetting` for one by name that can't
    be, or does not agree; a tuned file that no longer holds leaves torch as it is, and the log says why."""
    settings = predictor.settings
    wanted = settings.backend
    if wanted == eager.NAME or (wanted is None and not (tuned_file.folder_of(checkpoint) / tuned_file.NAME).is_file()):
        return EAGER
    if wanted in (None, AUTO) and (running := _of_file(predictor, checkpoint)) is not None:
        return running
    return EAGER if wanted is None else _tried_now(predictor, str(wanted))


def _of_file(predictor: Predictor, checkpoint: Path) -> Running | None:
    """As the tuned file says; None where there is none, or it does not hold."""
    device = device_of(predictor.module)
    try:
        tuned = tuned_file.read(checkpoint)
        if tuned is None:
            return None
        why = _put_from(predictor, tuned, checkpoint, device)
    except LoadError as error:
        log.warning(_NOT_USED, error.message)
        return None
    if why is not None:
        log.warning(_NOT_USED, why)
        return None
    best = tuned.values.get("best")
    best = best if isinstance(best, dict) else {}
    return Running(
        tuned.backend, "tuned.json", best.get("speedup"), best.get("error"), tuple(tuned.values.get("tried", ())),
        tuned.rows, _threads(tuned), _own_threads(tuned.backend),
    )  # fmt: skip


def _threads(tuned: Tuned) -> int | None:
    """As many as were best, where that was fewer than all; never more than there are here."""
    return None if tuned.threads is None else min(tuned.threads, torch.get_num_threads())


def _own_threads(backend: str) -> bool:
    return bool(getattr(BACKENDS[backend], "OWN_THREADS", False))


_NOT_USED = "what was tuned is not used, and torch runs the model as it is: %s"


def _put_from(predictor: Predictor, tuned: Tuned, checkpoint: Path, device: torch.device) -> str | None:
    """Why a tuned file does not hold; None once its way is in place."""
    if (why := tuned_file.difference(tuned, checkpoint, device)) is not None:
        return why
    if tuned.backend not in BACKENDS:
        return f"no backend is called {tuned.backend!r:.40}"
    return None if tuned.backend == eager.NAME else _loaded(predictor, tuned)


def _loaded(predictor: Predictor, tuned: Tuned) -> str | None:
    """Put the tuned way in place, once its answers have been compared again; or say why not."""
    given = samples.of(predictor, few=True)
    if given is None:
        return "nothing is known of what the model takes"
    try:
        fits = Fits.from_dict(tuned.values.get("fits"))
    except ValueError as error:
        return str(error)
    backend = BACKENDS[tuned.backend]
    threads = _threads(tuned) or torch.get_num_threads()
    device, loads = device_of(predictor.module), tuned.kept and hasattr(backend, "load")
    missing = backend.missing_to_load(device) if loads else backend.missing(device)
    if missing is not None:
        return str(missing)
    for name in getattr(backend, "CODE", ()):
        trust = Trust(predictor.settings.trust_code, predictor.settings.trust_sha256)
        if not trust.allows(tuned.folder / name):
            digest = tuned.values["files"].get(name)
            return f"{name} is native code, and not trusted: SCORE_TRUST_SHA256={digest}"
    try:
        with quiet():
            built: Built | None = backend.load(tuned.folder, threads) if loads else None
        found = verify.verified(predictor.module, given, device, threads, tuned.backend, built)
    except Exception as error:  # noqa: BLE001  # a backend raises anything, and torch runs the model all the same
        return f"{tuned.backend} can't be put together again: {in_short(error)}"
    if found is None:
        return "its answers can't be compared"
    if not found.agreement.holds(predictor.settings.tolerance):
        return f"its answers are {found.agreement} from torch's"
    swap(predictor.module, found.built.run, fits, found.answer)
    return None


def _tried_now(predictor: Predictor, wanted: str) -> Running:
    if wanted != AUTO and wanted not in BACKENDS:
        raise InvalidSetting(f"SCORE_BACKEND is {wanted!r}; there is {', '.join((AUTO, *BACKENDS))}")
    start = time.monotonic()
    by_hand = None if wanted == AUTO else wanted
    outcome = tune(predictor, [wanted] if by_hand else [], by_hand=by_hand)
    if outcome is None:
        if wanted == AUTO:
            log.warning("nothing is known of what the model takes, so nothing was tuned")
            return EAGER
        raise InvalidSetting(f"SCORE_BACKEND={wanted}: nothing is known of what the model takes: set SCORE_INPUTS")
    if by_hand is not None and outcome.best.name != by_hand:
        refused = next(each for each in outcome.tried if each.name == by_hand)
        why = refused.refused or f"its answers are {refused.agreement} from torch's"
        raise InvalidSetting(
            f"SCORE_BACKEND={wanted}: {why}",
            hint="Choose another (score tune shows all), or allow more with SCORE_TOLERANCE.",
        )
    log.info("tried %d ways to run the model in %.1f s", len(outcome.tried), time.monotonic() - start)
    return _put(predictor, outcome)


def _put(predictor: Predictor, outcome: Outcome) -> Running:
    """Have a model run in the best way that was found."""
    if outcome.best.name != eager.NAME:
        swap(predictor.module, outcome.run, Fits.of(outcome.samples), outcome.answer)
    found = outcome.best.agreement
    tried = tuple(each.as_dict() for each in outcome.tried)
    return Running(
        outcome.best.name, "SCORE_BACKEND", round(outcome.best.speedup(outcome.base), 2),
        found.error if found else None, tried, outcome.placement.rows, outcome.placement.threads,
        _own_threads(outcome.best.name),
    )  # fmt: skip


def tune(
    predictor: Predictor, names: list[str], bodies: Any = (), told: Any = lambda _: None, by_hand: str | None = None
) -> Outcome | None:
    """Try ways to run a model; None where nothing is known of what it takes, or its answers can't be compared."""
    if isinstance(predictor.module, torch.jit.ScriptModule):
        return None
    given = samples.of(predictor, bodies)
    if given is None:
        return None
    settings = predictor.settings
    return trial.run(
        predictor.module, given, device_of(predictor.module), torch.get_num_threads(), settings.tolerance,
        settings.tune_seconds, names, by_hand, told,
    )  # fmt: skip
