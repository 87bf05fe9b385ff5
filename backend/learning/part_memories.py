"""Learning while people label: after every submitted group the project's part memory is fitted anew, in the background.

No job and no button: what was submitted is asked of the host, looked at by the model that serves, and learnt in
seconds. The next prediction for that project is seen in its light, and carries the version `...+N groups`. The gate
still decides what becomes a version. A wrong annotation that was corrected or deleted is forgotten at the next fit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.host.client import LabelStudioClient
from backend.media.media import Media
from backend.prediction.engine import Engine
from backend.prediction.model_import import import_model
from backend.prediction.part_looks import LooksHere, PartLooks
from backend.prediction.predictor import describe
from backend.prediction.result_cache import ResultCache
from calico.errors import InputError
from calico.snapshots.records import AnnotatedGroup
from calico.values import CoSegmentation, ImageGroup

if TYPE_CHECKING:
    from calico.part_memory.memory import PartMemory
    from calico.training.corrected_groups import CorrectedGroup

log = logging.getLogger("calico.backend")

QUIET_S = 1.5  # after the last event: people submit one group after the other
LONGEST_WAIT_S = 10.0  # where they never pause
RETRY_S = 60.0  # after a fit that failed
MAX_IMAGES = 400  # of the newest groups
SEEN_BYTES = 16_000_000  # of predictions in a memory's light, packed, which clicks ask for again
MAX_PROJECTS = 8  # memories that are held; the one that was not asked for longest goes
MAX_KNOWN = 1000  # projects of which anything is known; an event may name any
MAX_TURNS = 5  # of a prediction that was seen by a memory which was fitted anew meanwhile

#: (project, longest side of a kept picture in pixels) -> its corrections as they are now.
Gather = Callable[[int, int], "list[CorrectedGroup]"]


@dataclass
class Learnt:
    """One project. due_at: when the next fit may begin, None where nothing is new. model: version it was fitted on."""

    project: int
    due_at: float | None = None
    first_at: float | None = None
    memory: PartMemory | None = None
    model: str = ""
    num_groups: int = 0
    state: str = "waiting"
    problem: str = ""
    seconds: float | None = None
    used_at: float = field(default_factory=time.monotonic)
    seen: ResultCache = field(default_factory=lambda: ResultCache(SEEN_BYTES))

    def as_json(self) -> dict[str, Any]:
        card = None if self.memory is None else self.memory.card
        return {
            "project": self.project,
            "state": self.state,
            "problem": self.problem,
            "groups": self.num_groups,
            "names": [] if card is None else [str(name) for name in card.names],
            "estimate": None if card is None else card.strict_miou_parts,
            "num_measured": 0 if card is None else card.num_measured,
            "by_name": {}
            if card is None
            else {str(name): asdict(own) for name, own in zip(card.names, card.estimates, strict=True)},
            "seconds": self.seconds,
            "model": self.model,
        }


class PartMemories:
    """Safe to share between threads; fits run one at a time on a thread of their own, `close` ends it.

    gather: asks for a project's corrections. clock: seconds, monotonic. looks: where the model is, None: in this
    process.
    """

    def __init__(
        self,
        engine: Engine,
        gather: Gather,
        *,
        clock: Callable[[], float] = time.monotonic,
        looks: PartLooks | None = None,
    ) -> None:
        self._engine, self._gather, self._clock = engine, gather, clock
        self.looks = LooksHere() if looks is None else looks
        self._learnt: dict[int, Learnt] = {}
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._is_closed = False
        self._thread: threading.Thread | None = None

    # -- events -------------------------------------------------------------------------------------------------------

    def notice(self, body: Mapping[str, Any]) -> None:
        """An event of the host. Only those about annotations of a project matter."""
        project = body.get("project")
        number = project.get("id") if isinstance(project, Mapping) else None
        if isinstance(number, int) and "ANNOTATION" in str(body.get("action")):
            self.wants_fit(number)

    def wants_fit(self, project: int) -> None:
        with self._wake:
            now = self._clock()
            own = self._learnt.setdefault(project, Learnt(project))
            own.first_at = now if own.first_at is None else own.first_at
            own.due_at = min(now + QUIET_S, own.first_at + LONGEST_WAIT_S)
            self._forget_some(project)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="part-memories", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _forget_some(self, newest: int) -> None:
        """The caller holds the lock."""
        without = [number for number, own in self._learnt.items() if own.memory is None and number != newest]
        for number in without[: max(0, len(self._learnt) - MAX_KNOWN)]:
            del self._learnt[number]

    def close(self) -> None:
        """Waits for a fit that runs."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()

    # -- predictions --------------------------------------------------------------------------------------------------

    def version(self, project: int | None, model: str) -> str:
        """What predictions of this model for a project carry."""
        own = self._of(project, model)
        return model if own is None else f"{model}+{own.num_groups} groups"

    def remembered(
        self, project: str, model: str, group: ImageGroup, found: CoSegmentation, names: Sequence[str]
    ) -> tuple[CoSegmentation, str]:
        """A prediction of this model in the light of the project's memory, and its version. names: a fixed vocabulary,
        empty for free naming. project: as the host writes it."""
        result = found
        for _ in range(MAX_TURNS):
            own = self._of(project_of(project), model)
            if own is None:
                return found, model
            with self._lock:  # all of one fit
                memory, seen, version = own.memory, own.seen, f"{model}+{own.num_groups} groups"
            if memory is None:
                return found, model
            own.used_at = self._clock()
            key = group.digests, tuple(names), tuple((region.key, region.score) for region in found.regions)
            before = seen.get(key)
            if before is not None:
                result = before
            else:
                segmenter: Any = self._engine.segmenter()
                if segmenter.version != model:  # another one took over meanwhile
                    return found, model
                import_model()  # behind workers nobody else has, and predictions come side by side
                from calico.part_memory.evidence import remembered

                sights = self.looks.sights(segmenter, memory, group)
                sights = [sight if sight is None or not names else sight.among(names) for sight in sights]
                result = remembered(found, sights, memory.card.object_names)
                seen.put(key, result)
            is_newest = own.memory is memory
            if is_newest:  # else the newer one's answers may have been given already
                break
        return result, version

    def _of(self, project: int | None, model: str) -> Learnt | None:
        """None too where the memory was fitted on another model, for which it is then fitted anew."""
        if project is None:
            return None
        with self._lock:
            own = self._learnt.get(project)
        if own is None or own.memory is None:
            return None
        if own.model != model:
            if own.due_at is None and own.state != "fitting":
                self.wants_fit(project)
            return None
        return own

    def as_json(self) -> list[dict[str, Any]]:
        """By project, for people and programs; nothing secret in it."""
        with self._lock:
            return [own.as_json() for _, own in sorted(self._learnt.items())]

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._is_closed:
                    return
                now = self._clock()
                due = min((own for own in self._learnt.values() if own.due_at is not None), key=_due, default=None)
                if due is None or due.due_at is None or due.due_at > now:
                    self._wake.wait(None if due is None or due.due_at is None else max(0.05, due.due_at - now))
                    continue
                due.due_at = due.first_at = None
                due.state = "fitting"
            self.fit(due.project)

    def fit(self, project: int) -> None:
        """Now, on this thread. Never raises: what fails is said, and tried again later."""
        own = self._learnt.setdefault(project, Learnt(project))
        started = time.monotonic()
        try:
            self._fit(own)
            own.state, own.problem = "learnt", ""
        except Exception as error:
            own.state, own.problem = "failed", describe(error)
            log.warning("part memory of project %d: %s", project, own.problem)
            if not isinstance(error, InputError):
                with self._wake:
                    own.due_at = self._clock() + RETRY_S
                    self._wake.notify_all()
        own.seconds = round(time.monotonic() - started, 1)

    def _fit(self, own: Learnt) -> None:
        segmenter: Any = self._engine.segmenter()
        size = self.looks.size(segmenter)
        import_model()
        from calico.training.memory_fit import lessons_of  # here: it imports torch

        groups = self._gather(own.project, size)
        lessons = lessons_of(groups)[-MAX_IMAGES:]
        if not lessons:
            with self._lock:
                own.memory, own.num_groups = None, 0
            raise InputError("no submitted group names an object yet")
        memory = self.looks.fit(segmenter, own.project, lessons, MAX_IMAGES)
        with self._lock:
            own.memory, own.model, own.num_groups = memory, segmenter.version, len(groups)
            own.seen = ResultCache(SEEN_BYTES)
            held = [other for other in self._learnt.values() if other.memory is not None]
            for other in sorted(held, key=lambda other: other.used_at)[:-MAX_PROJECTS]:
                if other is not own:
                    del self._learnt[other.project]
        estimate = memory.card.strict_miou_parts
        log.info(
            "part memory of project %d: %d names from %d groups in %.1f s, estimate %s",
            own.project,
            len(memory.card.names),
            own.num_groups,
            memory.card.seconds,
            "not measured" if estimate is None else f"{estimate:.2f} over {memory.card.num_measured} images",
        )


def gather_from(client: LabelStudioClient, media: Media) -> Gather:
    """From the host, pictures through the media cache."""

    from backend.learning.feedback import Collector  # here: it stands on what stands on the services
    from backend.learning.feedback_sources import project_tasks

    def gather(project: int, longest: int) -> list[CorrectedGroup]:
        writer = _Gathered(longest)
        collector = Collector(writer, lambda address, task: media.load(address, task=task), 0.0)  # type: ignore[arg-type]
        collector.run(project_tasks(client, project), lambda num_tasks: None)
        return writer.groups

    return gather


class _Gathered:
    """Stands where a snapshot's writer does, and keeps groups as training sees them."""

    position = None

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self.groups: list[CorrectedGroup] = []

    def add(self, group: AnnotatedGroup, images: Iterable[np.ndarray] = (), *, problems: Iterable[str] = ()) -> None:
        from calico.training.corrected_groups import corrected

        if group.target.regions:
            weight = 0.25 if group.provenance["accepted_as_is"] else 1.0
            self.groups.append(corrected(group, list(images), self._longest, weight))

    def skip(self, task: Any, code: str, message: str, *, annotation: Any = None) -> None:
        log.debug("part memory: task %s: %s: %s", task, code, message)

    def checkpoint(self, position: Any) -> None:
        pass

    def is_purged(self, *, task: Any, annotator: str) -> bool:
        return False


def _due(own: Learnt) -> float:
    return own.due_at if own.due_at is not None else float("inf")


def project_of(text: str) -> int | None:
    """The host names a project "ID.epoch"."""
    number = text.partition(".")[0]
    return int(number) if number.isdigit() else None
