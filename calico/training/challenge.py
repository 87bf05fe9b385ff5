"""From a snapshot to a version: finetune, score champion and challenger on what neither has seen, register, decide.

Everything finished is kept in the run's folder, so the same call goes on after a kill.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calico.errors import InputError
from calico.fingerprint import ADAPTER_CARD, EMBEDDED, checkpoint_version, is_adapter, read_card
from calico.metrics.strict import Answered, compare, keyed, strict_miou
from calico.metrics.summary import Evaluation
from calico.model.adapter import AdapterCard
from calico.model.checkpoint import write_text
from calico.reconcile import reconcile
from calico.sampler import evaluation_groups
from calico.segmenter import CoSegmenter
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.splits import TEST
from calico.snapshots.store import Snapshot
from calico.training.finetune import FinetuneResult, FinetuneSettings, Finisher, finetune, seen_groups
from calico.values import CoSegmentation, ImageGroup, truth_of
from calico.versions.gate import MIN_TEST_GROUPS, NUM_FOLDS, Decision, Scores, Verdict, decide, folds
from calico.versions.registry import Refused, Registry

logger = logging.getLogger(__name__)
PLAN, RESULT, SCORES, FIGURES = "plan.json", "result.json", "scores.json", "figures.json"
BASE_SEED = 5_001  # of the drawings that forgetting is looked for on: of no other use
FIGURE_NAMES = (
    "strict_miou", "strict_miou_parts", "strict_miou_objects", "name_precision", "name_recall", "occurrence_accuracy",
    "malformed_rate", "none_precision", "none_recall",
)  # fmt: skip

Item = tuple[str, ImageGroup, CoSegmentation]  # group id, pictures, truth
OnProgress = Callable[[str, float, str], None]  # what is being done, 0 to 1 of it, a note


@dataclass(frozen=True)
class Challenge:
    """What came of a finetune. figures: of champion and challenger on `test` and `base`, each with its n."""

    version: str
    decision: Decision
    published: bool
    figures: Mapping[str, Any]
    training: Mapping[str, Any]


def challenge(
    snapshot: Snapshot,
    registry: Registry,
    out: Path,
    settings: FinetuneSettings | None = None,
    *,
    start_id: str | None = None,
    publish: bool = False,
    num_base_groups: int = 60,
    command: str = "",
    on_progress: OnProgress | None = None,
    finishers: tuple[Finisher, ...] = (),
) -> Challenge:
    """Finetunes from a version (None: the champion), adds the result to the registry and asks the gate; `publish` makes
    it the champion where the gate lets it.

    With under 20 test groups all unseen groups are cross-validated, and half of the length goes to the folds, a tenth
    each. num_base_groups: held-out drawings on which forgetting is measured. Raises `InputError`, `CheckpointError`.
    """
    settings, tell = settings or FinetuneSettings(), on_progress or (lambda what, share, note: None)
    if num_base_groups < 1:
        raise InputError(f"base test groups: expected 1 or more, got {num_base_groups}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if (out / RESULT).exists():
        return _finished(out, snapshot, registry, start_id, publish)
    plan = _plan(out, snapshot, registry, start_id)
    champion, start = _folder(registry, plan["champion"]), _folder(registry, plan["start"])
    parent, champion_id = checkpoint_version(start), checkpoint_version(champion)
    num_test = int(snapshot.manifest["splits"][TEST])
    is_short = num_test < MIN_TEST_GROUPS
    own = shortened(settings, 0.5) if is_short else settings
    result = finetune(snapshot, start, out, own, _told(tell, "training"), finishers=finishers)

    kept = _Kept(out / "scores", registry, tell)
    test, base = {}, {}
    for side, name, folder in (("champion", champion_id, champion), ("challenger", "challenger", result.folder)):
        test[side] = kept.scored(folder, f"test-{name}", held_out_items(snapshot), num_test)
        base[side] = kept.scored(folder, f"base-{name}", base_items(num_base_groups), num_base_groups)
    scores = Scores(
        champion_id,
        *(found["scores"] for found in test.values()),
        *(found["scores"] for found in base.values()),
    )
    if decide(scores).verdict is Verdict.CROSS_VALIDATE:
        ours, theirs = _cross_validated(snapshot, out, settings, champion, start, kept, tell, champion_id)
        scores = replace(scores, test_champion=theirs, test_challenger=ours, is_cross_validated=True)
    decision = decide(scores)
    figures = {
        what: {side: found["figures"] for side, found in both.items()}
        for what, both in (("test", test), ("base", base))
    }
    write_text(result.folder / SCORES, _json(asdict(scores)))
    write_text(result.folder / FIGURES, _json(figures))
    training = _training(result)
    version = registry.add(
        result.folder,
        kind="adapter",
        preset=result.preset,
        parent=parent,
        snapshot=snapshot.content_sha256,
        metrics={"figures": figures, "decision": decision.as_json(), "training": training},
        command=command,
    )
    published = publish and _publish(registry, version.id, decision)
    made = Challenge(version.id, decision, published, figures, training)
    write_text(out / RESULT, _json(asdict(made)))
    return made


def shortened(settings: FinetuneSettings, share: float) -> FinetuneSettings:
    """The same with this share of the length."""
    steps = None if settings.steps is None else max(1, round(settings.steps * share))
    return replace(settings, minutes=settings.minutes * share, steps=steps)


def _plan(out: Path, snapshot: Snapshot, registry: Registry, start_id: str | None) -> dict[str, Any]:
    """Who is compared with whom, written down at the first start: a publish meanwhile does not change it."""
    champion = registry.current()
    asked = None if start_id is None else registry.get(start_id).id
    path = out / PLAN
    if not path.exists():
        plan: dict[str, Any] = {"snapshot": snapshot.content_sha256, "champion": champion, "start": asked or champion}
        write_text(path, _json(plan))
        return plan
    plan = read_card(path, "snapshot", "champion", "start")
    if plan["snapshot"] != snapshot.content_sha256 or (asked and plan["start"] != asked):
        what = f"of snapshot {plan['snapshot'][:12]} from {plan['start'] or 'the embedded checkpoint'}"
        raise InputError(f"{out}: holds a run {what}; use another --out, or the same options to resume it")
    return plan


def _finished(out: Path, snapshot: Snapshot, registry: Registry, start_id: str | None, publish: bool) -> Challenge:
    """The outcome of a run that came to its end; published now, if that was not asked for then."""
    _plan(out, snapshot, registry, start_id)
    found = read_card(out / RESULT, "version", "decision", "published", "figures", "training")
    decision = found["decision"]
    interval = None if decision["interval"] is None else tuple(decision["interval"])
    decision = Decision(**{**decision, "verdict": Verdict(decision["verdict"]), "interval": interval})
    published = found["published"] or (publish and _publish(registry, found["version"], decision))
    return Challenge(**{**found, "decision": decision, "published": published})


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


# -- scores ---------------------------------------------------------------------------------------------------------


def held_out_items(snapshot: Snapshot, ids: Iterable[str] | None = None) -> Iterable[Item]:
    """The groups of the test split, or those with these ids."""
    wanted = None if ids is None else set(ids)
    for group in snapshot.groups(TEST if wanted is None else None):
        if wanted is None or group.id in wanted:
            yield group.id, snapshot.load_images(group), group.target


def base_items(num_groups: int) -> Iterable[Item]:
    """Held-out drawings, always the same."""
    for number, images in enumerate(evaluation_groups(BASE_SEED, num_groups, 2)):
        yield f"drawings-{BASE_SEED}-{number}", ImageGroup(tuple(i.image for i in images)), truth_of(images)


def score(
    segmenter: CoSegmenter, items: Iterable[Item], on_group: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """`scores`: `group_score` of each group's reconciled result. `figures`: over all groups; `overall` means of the
    questions' own answers, `reconciled` of what an annotator sees."""
    evaluation, scores = Evaluation(), {}
    for number, (group_id, images, truth) in enumerate(items, start=1):
        answers = segmenter.answer(images, constrained=False)
        merged = reconcile(images.sizes_hw, answers)
        answered = {task: Answered.from_parsed(a.parsed, a.masks, a.scores) for task, a in answers.items()}
        evaluation.add(group_id, truth, answered, merged)
        scores[group_id] = group_score(truth, merged)
        if on_group:
            on_group(number)
    report: dict[str, Any] = evaluation.report() if scores else {}
    figures = {
        kind: {
            **{name: report[kind][name] for name in FIGURE_NAMES if name in report[kind]},
            "n": {name: report[kind]["n"][name] for name in FIGURE_NAMES if name in report[kind]},
        }
        for kind in ("overall", "reconciled")
        if report
    }
    return {"scores": scores, "figures": {**figures, "n_groups": len(scores)}}


def group_score(truth: CoSegmentation, found: CoSegmentation) -> float:
    """Strict mIoU of a group's parts, 0 to 1; 1 where it rightly shows none. What the gate compares."""
    value = strict_miou(compare(keyed(truth.regions), keyed(found.regions)), "part")
    return 1.0 if value is None else min(1.0, value)


class _Kept:
    """Scores that are computed once, whatever is killed; one model in memory at a time."""

    def __init__(self, folder: Path, registry: Registry, tell: OnProgress) -> None:
        self.folder, self.registry, self.tell = folder, registry, tell
        self._loaded: tuple[Path, CoSegmenter] | None = None
        folder.mkdir(exist_ok=True)

    def scored(self, model: Path, name: str, items: Iterable[Item], num_items: int) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        if not path.exists():
            segmenter = self._segmenter(model)
            found = score(
                segmenter,
                items,
                lambda done: self.tell(f"scoring {name}", done / max(1, num_items), f"{done} of {num_items} groups"),
            )
            write_text(path, _json(found))
        return read_card(path, "scores", "figures")

    def _segmenter(self, model: Path) -> CoSegmenter:
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = (model, CoSegmenter.from_checkpoint(model, base=self._base(model)))
        return self._loaded[1]

    def _base(self, model: Path) -> Path | None:
        """Of an adapter that is not in the registry yet, while its base is; None: the loader finds it."""
        base_id = AdapterCard.from_file(model / ADAPTER_CARD).base_id if is_adapter(model) else None
        return self.registry.path_of(base_id) if base_id and base_id in self.registry.ids() else None


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
    champion: Path,
    start: Path,
    kept: _Kept,
    tell: OnProgress,
    champion_id: str,
) -> tuple[dict[str, float], dict[str, float]]:
    """(challenger's, champion's) scores of every group that neither champion nor start has seen. Each fold is scored by
    a finetune of a tenth of the length on the other folds' groups."""
    component_of = components(snapshot.groups())
    seen = seen_groups(champion) | seen_groups(start)
    spoiled = {component_of[name] for name in seen if name in component_of}
    fold_of = folds(set(component_of.values()) - spoiled)
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for fold in range(NUM_FOLDS):
        held = [name for name, component in component_of.items() if fold_of.get(component) == fold]
        others = sorted(set(component_of) - set(held))
        if not held or not others:
            continue
        what = f"fold {fold + 1} of {NUM_FOLDS}"
        try:
            result = finetune(
                snapshot,
                start,
                out / f"fold-{fold + 1}",
                replace(shortened(settings, 0.5 / NUM_FOLDS), seed=settings.seed + fold),
                _told(tell, what),
                train_ids=others,
            )
        except InputError as error:
            logger.warning("%s left out: %s", what, error)
            continue
        for name, folder, scores in ((f"fold-{fold + 1}", result.folder, ours), (champion_id, champion, theirs)):
            kept_as = f"fold-{fold + 1}-{name}"
            scores.update(kept.scored(folder, kept_as, held_out_items(snapshot, held), len(held))["scores"])
    return ours, theirs


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
