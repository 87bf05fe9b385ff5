"""From a snapshot to a version: finetune, score champion and challenger on what neither has seen, register, decide.

The part memory alone, over the start's own weights, challenges too: it takes seconds, changes no weight, and a finetune
that does not beat it is not worth its forgetting.

Everything finished is kept in the run's folder, so the same call goes on after a kill. Of several processes all train,
and the main one does the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calico.checkpoints.fingerprint import EMBEDDED, checkpoint_version, read_card
from calico.checkpoints.fingerprint import MEMORY as MEMORY_FILE
from calico.checkpoints.gate import MAX_BASE_DROP, NUM_FOLDS, SCORES, Decision, Scores, Verdict, decide, folds
from calico.checkpoints.registry import Refused, Registry
from calico.errors import InputError
from calico.files import write_text
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.splits import TEST
from calico.snapshots.store import Snapshot
from calico.training.base_data import DRAWINGS, BaseData, base_data_of, unguarded
from calico.training.finetune import FinetuneResult, FinetuneSettings, Finisher, finetune
from calico.training.memory_fit import memory_finishers
from calico.training.processes import Processes
from calico.training.recipe import finetune_settings
from calico.training.scoring import KeptScores, OnProgress, as_text, held_out_items
from calico.training.starting_model import seen_groups, start_config

logger = logging.getLogger(__name__)
FOLD_LENGTH = 0.1  # of a finetune's, for each fold of a cross-validation
PLAN, RESULT, FIGURES = "plan.json", "result.json", "figures.json"
FINETUNE, MEMORY = "challenger", "memory"  # as their scores are called


@dataclass(frozen=True)
class Challenge:
    """What came of a finetune. figures: of champion and challenger on `test` and `base`, each with its n.

    challenger: which one the version is, of `FINETUNE` and `MEMORY`; decision: about it. other: about the other one.
    """

    version: str
    decision: Decision
    published: bool
    figures: Mapping[str, Any]
    training: Mapping[str, Any]
    challenger: str = FINETUNE
    other: Decision | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Challenge:
        other = row.get("other")  # runs of before have none
        decisions = {"decision": _decision(row["decision"]), "other": other and _decision(other)}
        return cls(**{**row, **decisions})


def _decision(row: Mapping[str, Any]) -> Decision:
    interval = None if row["interval"] is None else tuple(row["interval"])
    return Decision(**{**row, "verdict": Verdict(row["verdict"]), "interval": interval})


@dataclass(frozen=True)
class _Candidate:
    """A challenger and how it did. figures: as `Challenge`'s."""

    name: str
    result: FinetuneResult
    scores: Scores
    figures: Mapping[str, Any]
    decision: Decision

    @property
    def rank(self) -> tuple[bool, float]:
        """Whether it may be published, and by how much it is better."""
        return self.decision.verdict is Verdict.PUBLISH, self.decision.difference or 0.0


def challenge(
    snapshot: Snapshot,
    registry: Registry,
    out: Path,
    settings: FinetuneSettings | None = None,
    *,
    start_id: str | None = None,
    base_data: BaseData | None = None,
    publish: bool = False,
    num_base_groups: int = 60,
    max_base_drop: float = MAX_BASE_DROP,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> Challenge:
    """Finetunes from a version (None: the champion), adds the result to the registry and asks the gate; `publish` makes
    it the champion where the gate lets it. settings: None for the recipe of the start's preset.

    With under 20 test groups the others are cross-validated too, by folds of a tenth of the length each, so that every
    group is scored by a challenger that has not seen it. base_data: what the start learnt from, beside drawings where
    it learnt from these; None: drawings. num_base_groups: held-out groups of all that, on which forgetting is measured;
    max_base_drop: what they may lose.
    Raises `InputError`, `CheckpointError`.
    """
    tell: OnProgress = on_progress or (lambda what, share, note: None)
    if num_base_groups < 1:
        raise InputError(f"base test groups: expected 1 or more, got {num_base_groups}")
    out, processes = Path(out), Processes()
    plan = processes.on_main(lambda: _plan(out, snapshot, registry, start_id, base_data))
    if processes.on_main(lambda: (out / RESULT).exists()):
        return _made(processes, lambda: _finished(out, registry, publish))
    champion, start = _folder(registry, plan["champion"]), _folder(registry, plan["start"])
    base_data = base_data_of(start_config(start), base_data, start)
    settings = settings or finetune_settings(start_config(start))
    champion_id = checkpoint_version(champion)
    seen = seen_groups(champion) | seen_groups(start)
    test_ids, accepted = [], set()
    for record in snapshot.records():
        if record["split"] == TEST:
            test_ids.append(record["id"])
        if record["provenance"]["accepted_as_is"]:
            accepted.add(record["id"])
    unseen_ids = [name for name in test_ids if name not in seen]
    if len(unseen_ids) < len(test_ids):
        logger.warning(
            "%d of %d test groups were trained on before, under other splits: left out of the comparison",
            len(test_ids) - len(unseen_ids),
            len(test_ids),
        )
    finishers = tuple(_announced(finisher, tell) for finisher in memory_finishers(settings.part_memory, base_data))
    kept = KeptScores(out / "scores", registry, tell, processes, bits=settings.bits, accepted=accepted)

    def candidate(name: str, candidate_settings: FinetuneSettings, folder: Path) -> _Candidate:
        tell_training = _told(tell, "training")
        result = finetune(
            snapshot, start, folder, candidate_settings, tell_training, base_data=base_data, finishers=finishers
        )
        test, base = {}, {}
        for side, known_as, model in (("champion", champion_id, champion), (FINETUNE, name, result.folder)):
            test[side] = kept.scored(model, f"test-{known_as}", held_out_items(snapshot, unseen_ids), len(unseen_ids))
            base_groups = base_data.items(num_base_groups)
            base[side] = kept.scored(model, f"base-{known_as}", base_groups, num_base_groups)
        kept.release()
        scores = Scores(
            champion_id,
            *(row["scores"] for row in test.values()),
            *(row["scores"] for row in base.values()),
        )
        if decide(scores, max_base_drop).verdict is Verdict.CROSS_VALIDATE:
            left_out = seen.union(test_ids)
            ours, theirs = _cross_validated(
                snapshot,
                folder,
                candidate_settings,
                base_data,
                finishers,
                champion,
                start,
                left_out,
                kept,
                tell,
                champion_id,
                name,
            )
            scores = replace(
                scores,
                test_champion={**theirs, **scores.test_champion},
                test_challenger={**ours, **scores.test_challenger},
                is_cross_validated=True,
            )
        figures = {
            what: {side: row["figures"] for side, row in both.items()}
            for what, both in (("test", test), ("base", base))
        }
        return _Candidate(name, result, scores, figures, decide(scores, max_base_drop))

    candidates = [candidate(FINETUNE, settings, out)]
    if settings.steps != 0 and (candidates[0].result.folder / MEMORY_FILE).is_file():
        candidates.append(candidate(MEMORY, replace(settings, steps=0), out / MEMORY))
    best = max(candidates, key=lambda one: one.rank)  # the finetune where both are as good
    other = next((one.decision for one in candidates if one is not best), None)
    decision = best.decision
    if best.name == MEMORY and other is not None:
        decision = replace(decision, reason=f"the part memory alone: {decision.reason}; the finetune: {other.reason}")

    def registered() -> Challenge:
        result = best.result
        write_text(result.folder / SCORES, as_text(asdict(best.scores)))
        write_text(result.folder / FIGURES, as_text(best.figures))
        training = _training(result)
        version = registry.add(
            result.folder,
            kind="adapter",
            preset=result.preset,
            parent=checkpoint_version(start),
            snapshot=snapshot.content_sha256,
            metrics={"figures": best.figures, "decision": decision.as_json(), "training": training},
            command=command,
        )
        published = publish and _publish(registry, version.id, decision)
        outcome = Challenge(version.id, decision, published, best.figures, training, best.name, other)
        write_text(out / RESULT, as_text(outcome.as_json()))
        return outcome

    return _made(processes, registered)


def _made(processes: Processes, work: Callable[[], Challenge]) -> Challenge:
    return Challenge.from_json(processes.on_main(lambda: work().as_json()))


def shortened(settings: FinetuneSettings, share: float) -> FinetuneSettings:
    """The same with this share of the length."""
    steps = None if settings.steps is None else min(settings.steps, max(1, round(settings.steps * share)))
    cpu = None if settings.cpu_minutes is None else settings.cpu_minutes * share
    return replace(settings, minutes=settings.minutes * share, cpu_minutes=cpu, steps=steps)


def _plan(
    out: Path, snapshot: Snapshot, registry: Registry, start_id: str | None, base_data: BaseData | None
) -> dict[str, Any]:
    """Who is compared with whom, written down at the first start: a publish meanwhile does not change it."""
    out.mkdir(parents=True, exist_ok=True)
    champion = registry.current()
    start_version = None if start_id is None else registry.get(start_id).id
    path = out / PLAN
    plan: dict[str, Any] = {
        "snapshot": snapshot.content_sha256,
        "champion": champion,
        "start": start_version or champion,
    }
    stored = {"base_data": DRAWINGS.name, **read_card(path, *plan)} if path.exists() else None
    start = _folder(registry, (stored or plan)["start"])
    learnt = start_config(start)
    data = DRAWINGS if stored and base_data is None else base_data_of(learnt, base_data, start)
    plan["base_data"] = data.name
    if stored is None:
        if lacking := unguarded(learnt, data):
            logger.warning(
                "%s says that it learnt from %s: that is neither rehearsed nor looked at for forgetting; "
                "--replay INDEX (for a backend's jobs CALICO_TRAINING_REPLAY) adds an index of it",
                checkpoint_version(start),
                ", ".join(lacking),
            )
        write_text(path, as_text(plan))
        return plan
    is_other = any(stored[key] != plan[key] for key in ("snapshot", "base_data"))
    if is_other or (start_version and stored["start"] != start_version):
        what = f"of snapshot {stored['snapshot'][:12]} from {stored['start'] or 'the embedded checkpoint'}"
        what += "" if stored["base_data"] == data.name else f" with base data {stored['base_data']}"
        raise InputError(f"{out}: holds a run {what}; use another --out, or the same options to resume it")
    return stored


def _finished(out: Path, registry: Registry, publish: bool) -> Challenge:
    """The outcome of a run that came to its end; published now, if that was not asked for then."""
    outcome = Challenge.from_json(read_card(out / RESULT, "version", "decision", "published", "figures", "training"))
    return replace(
        outcome, published=outcome.published or (publish and _publish(registry, outcome.version, outcome.decision))
    )


def asked_settings(registry: Registry, start_id: str | None, **given: Any) -> FinetuneSettings:
    """The recipe of the preset that a challenge from `start_id` (None: the champion) starts from, but for what was
    asked for, as `calico.training.recipe` takes it."""
    return finetune_settings(start_config(_folder(registry, start_id or registry.current())), **given)


def _folder(registry: Registry, version: str | None) -> Path:
    return EMBEDDED if version is None else registry.path_of(version)


def _publish(registry: Registry, version: str, decision: Decision) -> bool:
    if registry.current() == version:  # published, then killed
        return True
    try:
        registry.publish(version, decision=decision)
    except Refused as refusal:
        logger.warning("%s", refusal)
        return False
    return True


def _training(result: FinetuneResult) -> dict[str, Any]:
    state = asdict(result.state)
    return {**state, "n": result.num_groups, "num_weights": result.num_weights, "num_bytes": result.num_bytes}


def _told(tell: OnProgress, what: str) -> Callable[[Any, dict[str, float], float], None]:
    def on_step(state: Any, terms: dict[str, float], progress: float) -> None:
        note = f"step {state.step}  loss {terms['loss']:.2f}  text {terms['text']:.2f}  IoU {terms['seg_iou']:.2f}"
        if state.best_validation is not None:
            note += f"  best validation {state.best_validation:.3f}"
        tell(what, progress, note)

    return on_step


def _announced(finisher: Finisher, tell: OnProgress) -> Finisher:
    """It takes minutes, in which the training's own progress stands at its end."""

    def run(*args: Any, **options: Any) -> Any:
        tell("fitting the part memory", 0.0, "")
        return finisher(*args, **options)

    return run


# -- cross-validation -------------------------------------------------------------------------------------------------


def components(groups: Iterable[AnnotatedGroup]) -> dict[str, str]:
    """Group id -> the first id of those that it shares an image with, directly or through others."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    ids = []
    for group in groups:
        ids.append(group.id)
        for key in group.keys:
            parent[root(f"key {key}")] = root(f"group {group.id}")
    first: dict[str, str] = {}
    return {name: first.setdefault(root(f"group {name}"), name) for name in sorted(ids)}


def _cross_validated(
    snapshot: Snapshot,
    out: Path,
    settings: FinetuneSettings,
    base_data: BaseData,
    finishers: Sequence[Finisher],
    champion: Path,
    start: Path,
    left_out: set[str],
    kept: KeptScores,
    tell: OnProgress,
    champion_id: str,
    candidate: str,
) -> tuple[dict[str, float], dict[str, float]]:
    """(challenger's, champion's) scores of the groups that share no image with those left out: the test split and what
    champion or start has seen. Each fold is scored by a finetune of a tenth of the length on all other groups."""
    component_of = components(snapshot.groups())
    trained_on = {component_of[name] for name in left_out if name in component_of}
    fold_of = folds(set(component_of.values()) - trained_on, NUM_FOLDS)
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for fold in range(NUM_FOLDS):
        fold_ids = [name for name, component in component_of.items() if fold_of.get(component) == fold]
        others = sorted(set(component_of) - set(fold_ids))
        if not fold_ids or not others:
            continue
        what = f"fold {fold + 1} of {NUM_FOLDS}"
        try:
            result = finetune(
                snapshot,
                start,
                out / f"fold-{fold + 1}",
                replace(shortened(settings, FOLD_LENGTH), seed=settings.seed + fold),
                _told(tell, what),
                base_data=base_data,
                train_ids=others,
                finishers=finishers,
            )
        except InputError as error:
            logger.warning("%s left out: %s", what, error)
            continue
        for name, folder, scores in ((candidate, result.folder, ours), (champion_id, champion, theirs)):
            kept_as = f"fold-{fold + 1}-{name}"
            scores.update(kept.scored(folder, kept_as, held_out_items(snapshot, fold_ids), len(fold_ids))["scores"])
        kept.release()
    return ours, theirs
