"""The models of a server: one, or several by name, each loaded when it is asked for, and kept while there is room."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from score import log
from score.errors import (
    LoadError,
    ModelNotNamed,
    ModelTooLarge,
    ModelUnloaded,
    NotSupported,
    QueueFull,
    UnknownModel,
)
from score.formats.search import size
from score.inference import device, sharing
from score.server.discovery import chosen, files, listed, settings_of
from score.server.metrics import Observer
from score.server.service import Service
from score.settings import Settings

RETRY = 30.0  # seconds after which a model that could not be loaded is tried again, if it is asked for
READY, UNAVAILABLE = "READY", "UNAVAILABLE"  # as the Open Inference Protocol calls a model's state


@dataclass(eq=False)
class Entry:
    """One of several models. `observer` counts for it, however often it is loaded; `users` are answering requests with
    it just now."""

    name: str
    path: Path
    observer: Observer
    service: Service | None = None
    error: LoadError | None = None
    failed: float = 0.0
    withdrawn: bool = False  # unloaded by request, and so not to be loaded by the next
    used: float = 0.0
    users: int = 0

    @property
    def bytes(self) -> int:
        """Of its weights; of a model that is not loaded, of its files."""
        if self.service is not None:
            return self.service.predictor.report.bytes
        return sum(each.stat().st_size for each in files(self.path))

    def state(self) -> tuple[str, str]:
        """Whether it answers, and why not. One that was never asked for, or made room, does: it is loaded then."""
        if self.withdrawn:
            return UNAVAILABLE, "unloaded"
        if self.error is not None:
            return UNAVAILABLE, f"{self.error.code}: {self.error.message}"
        return READY, "" if self.service is not None else "loaded on demand"


Load = Callable[[Settings, Observer], Service]
"""Loads a model and warms it up. Raises a `LoadError`."""


class Models:
    """What requests choose from. From any thread."""

    def __init__(self, settings: Settings | None, entries: Iterable[Entry], load: Load | None) -> None:
        self._settings, self._load = settings, load
        self._entries = {entry.name: entry for entry in entries}
        self.only: Service | None = None
        self.several = load is not None
        self._changed = threading.Condition()
        self._loading = threading.Lock()  # one at a time: each takes all cores, and memory until it is known how much
        self.front = Observer(log_requests=settings.log_requests if settings else False)
        """Counts requests that have reached no model."""

    @classmethod
    def of_one(cls, service: Service) -> "Models":
        """A server of one model, which is there from the start to the end."""
        models = cls(None, (), None)
        models.only, models.front = service, service.observer
        return models

    @cached_property
    def settings(self) -> Settings:
        """Those of the server; a model's own may say more."""
        return self._settings or self.only.predictor.settings  # type: ignore[union-attr]

    @property
    def names(self) -> list[str]:
        return list(self._entries) if self.only is None else [self.only.name]

    def at_once(self, name: str) -> Service | None:
        """The model that a request names, where it is loaded; it is in use until `release`. None where it has to be
        loaded first, with `take`. Raises `UnknownModel` or `ModelNotNamed`."""
        if self.only is not None:
            if name and name != self.only.name:
                raise self._unknown(name)
            return self.only
        entry = self._entry(name)
        with self._changed:
            return self._use(entry)

    def take(self, name: str) -> Service:
        """The same, loaded if it has to be. Raises `ModelUnloaded`, or the `LoadError` that says why not, too."""
        if (found := self.at_once(name)) is not None:
            return found
        entry = self._entry(name)
        self._raise_if_unavailable(entry)
        with self._loading:
            with self._changed:
                if (found := self._use(entry)) is not None:  # another request has had it loaded meanwhile
                    return found
            self._raise_if_unavailable(entry)
            self._bring_in(entry)
            with self._changed:
                found = self._use(entry)
        assert found is not None
        return found

    def release(self, service: Service) -> None:
        """The request that took it has been answered."""
        if service is self.only:
            return
        with self._changed:
            self._entries[service.name].users -= 1
            self._changed.notify_all()

    @contextmanager
    def using(self, name: str) -> Iterator[Service]:
        found = self.take(name)
        try:
            yield found
        finally:
            self.release(found)

    def load(self, name: str) -> None:
        """Load a model, or try again; one that is loaded stays as it is. Raises as `take`."""
        entry = self._of_several(name)
        with self._changed:
            entry.withdrawn, entry.error = False, None
        self.release(self.take(name))

    def unload(self, name: str) -> None:
        """Give a model's memory back, once the requests that use it are answered; it answers no more until it is loaded
        by name."""
        entry = self._of_several(name)
        with self._changed:
            entry.withdrawn = True
            self._changed.wait_for(lambda: not entry.users)
            self._drop(entry)
        device.give_back()

    def load_all(self) -> None:
        """At the start. What can't be loaded says why in the log, and under its own name."""
        for name in self._entries:
            try:
                self.release(self.take(name))
            except LoadError:
                continue

    def index(self) -> list[dict[str, Any]]:
        """Every model's name, version, state and the reason for it."""
        if self.only is not None:
            return [{"name": self.only.name, "version": self.only.version, "state": READY, "reason": ""}]
        known = self._settings.served_as()[1] if self._settings else "1"
        states = [(entry.name, *entry.state()) for entry in self._entries.values()]
        return [{"name": name, "version": known, "state": state, "reason": why} for name, state, why in states]

    def loaded(self) -> list[Service]:
        """Those in memory now, for who counts."""
        if self.only is not None:
            return [self.only]
        return [entry.service for entry in self._entries.values() if entry.service is not None]

    def observers(self) -> Mapping[str, Observer]:
        """What counts for each model."""
        if self.only is not None:
            return {self.only.name: self.only.observer}
        return {entry.name: entry.observer for entry in self._entries.values()}

    @property
    def ready(self) -> bool:
        """Whether any model answers."""
        return any(each["state"] == READY for each in self.index())

    def state(self, name: str, version: str = "") -> dict[str, Any]:
        """A model's entry in the index; asking does not load it. Raises `UnknownModel` for a name, or a version of it,
        that is not served here."""
        found = next((each for each in self.index() if each["name"] == name), None)
        if found is None:
            raise self._unknown(name)
        if version and version != found["version"]:
            raise UnknownModel(f"{name} is served in version {found['version']}, and not in {version[:40]!r}")
        return found

    def _entry(self, name: str) -> Entry:
        if not name and len(self._entries) == 1:
            return next(iter(self._entries.values()))
        if not name:
            raise ModelNotNamed(f"{len(self._entries)} models are served here: {listed(self._entries)}")
        if name not in self._entries:
            raise self._unknown(name)
        return self._entries[name]

    def _of_several(self, name: str) -> Entry:
        if not self.several:
            self.at_once(name)  # an unknown one is said to be
            raise NotSupported(
                "the only model of this server is loaded as long as it runs",
                hint="Set SCORE_MODELS=all to serve several, which are loaded and unloaded by name.",
            )
        return self._entry(name)

    def _unknown(self, name: str) -> UnknownModel:
        return UnknownModel(f"there is no model {name[:80]!r}; served here: {listed(self.names)}")

    def _use(self, entry: Entry) -> Service | None:
        if entry.service is None or entry.withdrawn:
            return None
        entry.users += 1
        entry.used = time.monotonic()
        return entry.service

    def _raise_if_unavailable(self, entry: Entry) -> None:
        if entry.withdrawn:
            raise ModelUnloaded(f"{entry.name} was unloaded")
        if entry.error is not None and time.monotonic() < entry.failed + RETRY:
            raise entry.error.with_traceback(None)

    def _bring_in(self, entry: Entry) -> None:
        """Load a model, and make room for it: by what its files take before, and by what it takes afterwards."""
        assert self._load is not None
        try:
            self._make_room(entry, entry.bytes - sharing.placed(entry.path))
            service = self._load(settings_of(entry.name, entry.path, self.settings), entry.observer)
            if (most := self._most) is not None and service.predictor.report.bytes > most:
                service.predictor.close()
                raise ModelTooLarge(
                    f"its weights take {size(service.predictor.report.bytes)}, and SCORE_MAX_MEMORY_MB allows "
                    f"{size(most)}"
                )
            self._make_room(entry, service.predictor.report.bytes, service)
        except LoadError as error:
            said = type(error)(
                f"{entry.name}: {error.message}", hint=error.hint, detail=error.detail, choices=error.choices
            )
            log.error("the model %s can't be served\n\n%s", entry.name, said.screen())
            entry.error, entry.failed = said, time.monotonic()
            raise said from None
        with self._changed:
            entry.service, entry.error = service, None

    @property
    def _most(self) -> float | None:
        """Bytes that all weights may take."""
        most = self._settings.max_memory_mb if self._settings else None
        return None if most is None else most * 1e6

    def _make_room(self, coming: Entry, size: int, service: Service | None = None) -> None:
        """Unload what was not used for longest, until `size` bytes more fit, less what `service` shares with others;
        what is in use is waited for. Raises `QueueFull` where that takes too long."""
        if self._most is None:
            return
        end, dropped = time.monotonic() + self.settings.scoring_timeout_ms / 1000, False
        with self._changed:
            while others := [
                each for each in self._entries.values() if each.service is not None and each is not coming
            ]:
                services = [each.service for each in others] + [service]
                shared = sharing.repeated(each.predictor.module for each in services if each is not None)
                if sum(each.bytes for each in others) + size - shared <= self._most:
                    break
                idle = [each for each in others if not each.users]
                if idle:
                    self._drop(min(idle, key=lambda each: each.used))
                    dropped = True
                elif not self._changed.wait(end - time.monotonic()) and time.monotonic() >= end:
                    raise QueueFull(f"there is no room for {coming.name}: all models in memory are in use")
        if dropped:
            device.give_back()

    def _drop(self, entry: Entry) -> None:
        if entry.service is not None:
            log.info("unloaded %s, %s of weights", entry.name, size(entry.bytes))
            entry.service.predictor.close()
            entry.service = None


def find(settings: Settings, load: Load) -> Models:
    """The models below the model folder that `SCORE_MODELS` names, or all. Raises a `LoadError`."""
    found = chosen(settings)
    return Models(settings, [Entry(name, path, Observer(settings.log_requests)) for name, path in found.items()], load)
