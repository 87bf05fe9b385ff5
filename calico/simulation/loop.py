"""Rounds of choosing, correcting, finetuning and asking the gate, for every strategy and seed; each step is kept.

What a step leaves behind is what the product leaves: snapshots, versions in a registry, their scores. A run that was
killed goes on after its last finished step.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from calico.checkpoints.fingerprint import EMBEDDED, checkpoint_version, read_card
from calico.checkpoints.registry import Registry
from calico.data import unseen
from calico.data.selection import STRATEGIES, Choice, GroupFacts, Labelled, PredictedPart, choose
from calico.errors import InputError
from calico.files import write_text
from calico.inference.features import image_features
from calico.inference.segmenter import CoSegmenter
from calico.simulation.annotator import Correction, Habits, correct
from calico.simulation.photos import PhotoGroup, PhotoPool
from calico.simulation.pool import DrawnGroup, DrawnPool
from calico.snapshots.records import AnnotatedGroup, ImageReference
from calico.snapshots.store import Snapshot
from calico.snapshots.writer import SnapshotWriter
from calico.training.base_data import BaseData, Item, base_data_of, index_data
from calico.training.challenge import challenge
from calico.training.finetune import FinetuneSettings, finetune
from calico.training.memory_fit import memory_finishers
from calico.training.scoring import score
from calico.training.starting_model import start_config
from calico.values import CoSegmentation

logger = logging.getLogger(__name__)
SETTINGS, BEFORE, CHOICES, ROUND = "settings.json", "before.json", "choices.json", "round.json"
GATES = ("ask", "skip")

PoolGroup = DrawnGroup | PhotoGroup
OnProgress = Callable[[str, float, str], None]  # what is being done, 0 to 1 of it, a note


@dataclass(frozen=True)
class Simulation:
    """domain: what is unseen, one of `unseen.DOMAINS`; or photos: a folder of annotated photographs
    (`calico.simulation.photos`). replay: an index of what the start learnt from beside drawings. pool_factor: groups to
    choose from, by those that are chosen.

    unseen_share: of the pool's groups, those of the domain. gate: `ask` it, and go on from the champion; `skip` it: all
    of the length is training and every version is published by force. num_held_out, num_base: groups to measure on.
    image_size: longest side of labelled and held-out drawings in pixels, None: 160 to 256. finetune: of every round,
    its seed replaced by the run's.
    """

    domain: str = ""
    photos: str | None = None
    replay: str | None = None
    strategies: tuple[str, ...] = ("random",)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_rounds: int = 1
    groups_per_round: int = 40
    pool_factor: int = 3
    unseen_share: float = 1.0
    gate: str = "ask"
    num_held_out: int = 60
    num_base: int = 60
    image_size: int | None = None
    habits: Habits = field(default_factory=Habits)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)

    def __post_init__(self) -> None:
        if self.photos is not None and (self.domain or self.unseen_share < 1 or self.image_size is not None):
            raise InputError("photos: a folder is all there is to label; give no domain, share or size beside it")
        if self.photos is None and self.domain not in unseen.DOMAINS:
            raise InputError(f"domain: expected one of {', '.join(unseen.DOMAINS)}, got {self.domain!r}")
        if unknown := [name for name in self.strategies if name not in STRATEGIES]:
            raise InputError(f"strategies: expected some of {', '.join(STRATEGIES)}, got {unknown[0]!r}")
        for name in ("strategies", "seeds"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name}: expected one or more, each once, got {getattr(self, name)}")
        for name in ("num_rounds", "groups_per_round", "pool_factor", "num_held_out", "num_base"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.gate not in GATES:
            raise InputError(f"gate: expected {' or '.join(GATES)}, got {self.gate!r}")
        if not 0 < self.unseen_share <= 1:
            raise InputError(f"unseen_share: expected above 0 and up to 1, got {self.unseen_share}")

    @property
    def pool(self) -> DrawnPool | PhotoPool:
        if self.photos is not None:
            return PhotoPool(Path(self.photos))
        return DrawnPool(self.domain, self.unseen_share, self.image_size)

    @property
    def base_data(self) -> BaseData | None:
        return None if self.replay is None else index_data(Path(self.replay))

    @property
    def pool_size(self) -> int:
        return self.num_rounds * self.groups_per_round * self.pool_factor


def simulate(
    settings: Simulation,
    out: Path,
    *,
    checkpoint: Path | None = None,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """All strategies and seeds in the folder `out`; `before` and one row a round under `runs`, JSON-ready.

    checkpoint: what to start from, None: the embedded one. Raises `InputError` where `out` holds another simulation.
    """
    tell = on_progress or (lambda what, share, note: None)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    start = checkpoint_version(checkpoint)
    _claim(out / SETTINGS, {"start": start, **asdict(settings)})
    before = _kept(out / BEFORE, lambda: _figures(settings, EMBEDDED if checkpoint is None else checkpoint, tell))
    rounds: list[dict[str, Any]] = []
    for seed in settings.seeds:
        for strategy in settings.strategies:
            run = _Run(settings, strategy, seed, out / f"{strategy}-{seed}", checkpoint, command, tell)
            rounds += [run.round(number) for number in range(1, settings.num_rounds + 1)]
    return {"start": start, "settings": asdict(settings), "before": before, "runs": rounds}


class _Run:
    """One strategy with one seed: its rounds and its registry."""

    def __init__(
        self,
        settings: Simulation,
        strategy: str,
        seed: int,
        folder: Path,
        checkpoint: Path | None,
        command: str,
        tell: OnProgress,
    ) -> None:
        self.settings, self.strategy, self.seed, self.folder = settings, strategy, seed, folder
        self.command = command
        self.name = f"{strategy}, seed {seed}"
        self.tell = tell
        self.pool = settings.pool
        self.registry = Registry(folder / "registry")
        if checkpoint is not None and self.registry.current() is None:
            version = self.registry.add(checkpoint, kind="checkpoint", preset=start_preset(checkpoint))
            self.registry.publish(version.id, force_reason="what the simulation starts from")

    def round(self, number: int) -> dict[str, Any]:
        folder = self.folder / f"round-{number}"
        return _kept(folder / ROUND, lambda: self._round(number, folder))

    def _round(self, number: int, folder: Path) -> dict[str, Any]:
        started = time.monotonic()
        choices = _kept(folder / CHOICES, lambda: self._label(number, folder))
        snapshot = Snapshot(folder / "snapshot")
        settings = replace(self.settings.finetune, seed=self.seed)
        if self.settings.gate == "ask":
            outcome = challenge(
                snapshot,
                self.registry,
                folder / "finetune",
                settings,
                base_data=self.settings.base_data,
                publish=True,
                num_base_groups=self.settings.num_base,
                command=self.command,
                on_progress=self._telling(number),
            )
            version, training = outcome.version, dict(outcome.training)
            decision, published = {**outcome.decision.as_json(), "challenger": outcome.challenger}, outcome.published
        else:
            version, training = self._trained(number, snapshot, folder, settings, choices["start"])
            decision, published = None, True
        figures = _figures(self.settings, self.registry.path_of(version), self._telling(number))
        return {
            "strategy": self.strategy,
            "seed": self.seed,
            "round": number,
            **{key: choices[key] for key in ("num_corrected", "num_skipped", "of_domain", "regions")},
            "version": version,
            "published": published,
            "decision": decision,
            "training": training,
            **figures,
            "wall_seconds": round(time.monotonic() - started, 1),
        }

    def _trained(
        self, number: int, snapshot: Snapshot, folder: Path, settings: FinetuneSettings, champion: str | None
    ) -> tuple[str, dict[str, Any]]:
        """champion: who was it when the round began; after a kill it may be this round's own version."""
        start = None if champion is None else self.registry.path_of(champion)
        tell = self._telling(number)

        def on_step(state: Any, terms: dict[str, float], progress: float) -> None:
            tell("training", progress, f"step {state.step}  loss {terms['loss']:.2f}")

        base_data = base_data_of(start_config(start), self.settings.base_data, start)
        finishers = memory_finishers(settings.part_memory, base_data)
        result = finetune(
            snapshot, start, folder / "finetune", settings, on_step, base_data=base_data, finishers=finishers
        )
        version = self.registry.add(
            result.folder,
            kind="adapter",
            preset=result.preset,
            parent=checkpoint_version(start),
            snapshot=snapshot.content_sha256,
            command=self.command,
        )
        if self.registry.current() != version.id:
            self.registry.publish(version.id, force_reason="the simulation was told to skip the gate")
        return version.id, {**asdict(result.state), "n": result.num_groups, "num_bytes": result.num_bytes}

    def _telling(self, number: int) -> OnProgress:
        def tell(what: str, share: float, note: str) -> None:
            self.tell(f"{self.name}, round {number}", share, f"{what}: {note}")

        return tell

    # -- choosing and correcting --------------------------------------------------------------------------------------

    def _label(self, number: int, folder: Path) -> dict[str, Any]:
        """Chooses, corrects and writes the round's snapshot: all groups so far."""
        earlier = [read_card(self.folder / f"round-{k}" / CHOICES, "choices") for k in range(1, number)]
        seen = {row["id"] for record in earlier for row in record["choices"]}
        groups = {group.id: group for group in self.pool.labelled(self.seed, self.settings.pool_size)}
        before = Snapshot(self.folder / f"round-{number - 1}" / "snapshot") if number > 1 else None
        current = self.registry.current()
        segmenter = CoSegmenter.from_checkpoint(None if current is None else self.registry.path_of(current))
        candidates = [group for name, group in groups.items() if name not in seen]
        predictions, ranked = self._ranked(candidates, segmenter, before, groups, number)
        rows: list[dict[str, Any]] = []
        corrected: list[tuple[AnnotatedGroup, PoolGroup]] = []
        for choice in ranked:
            if len(corrected) == self.settings.groups_per_round:
                break
            group = groups[choice.id]
            prediction = predictions.get(choice.id) or segmenter.segment(group.group)
            correction = correct(
                group.truth, prediction, self.pool.part_names, self.settings.habits, self.seed * 1_000_003 + group.order
            )
            rows.append({**choice._asdict(), **_counted(correction)})
            if correction.target is not None:
                corrected.append((self._annotated(group, correction, segmenter.version, number), group))
        if len(corrected) < self.settings.groups_per_round:
            raise InputError(
                f"{self.name}, round {number}: {len(corrected)} groups of {len(candidates)} could be corrected, "
                f"expected {self.settings.groups_per_round}; give a larger pool or skip fewer"
            )
        with SnapshotWriter(folder / "snapshot", previous=before.folder if before else None) as writer:
            for group_before in before.groups() if before else ():
                writer.add(replace(group_before, split=""), before.load_images(group_before).images if before else ())
            for annotated, group in corrected:
                writer.add(annotated, group.group.images)
            for row in rows:
                if row["skipped"]:
                    writer.skip(row["id"], "cancelled", "the simulated annotator skipped it")
            writer.finish()
        counted = ("kept", "redrawn", "missed", "misnamed")
        return {
            "start": current,
            "choices": rows,
            "num_corrected": len(corrected) + (int(before.manifest["num_groups"]) if before else 0),
            "num_skipped": sum(row["skipped"] for row in rows) + sum(record["num_skipped"] for record in earlier),
            "of_domain": sum(group.is_unseen for _, group in corrected),
            "regions": {name: sum(row[name] for row in rows) for name in counted},
        }

    def _ranked(
        self,
        candidates: Sequence[PoolGroup],
        segmenter: CoSegmenter,
        before: Snapshot | None,
        groups: dict[str, PoolGroup],
        number: int,
    ) -> tuple[dict[str, CoSegmentation], list[Choice]]:
        """Predictions of the pool, as far as the strategy needs them, and all of it in the strategy's order."""
        tell = self._telling(number)
        predictions: dict[str, CoSegmentation] = {}
        facts = [GroupFacts(group.id) for group in candidates]
        labelled = Labelled()
        if self.strategy != "random":
            facts = []
            for done, group in enumerate(candidates, start=1):
                predictions[group.id] = segmenter.segment(group.group)
                facts.append(_facts(group, predictions[group.id], segmenter))
                tell("predicting the pool", done / len(candidates), f"{done} of {len(candidates)} groups")
            groups_before = [AnnotatedGroup.from_record(record) for record in before.records()] if before else []
            counts: dict[str, int] = {}
            for item in groups_before:
                for name in {region.part_name for region in item.target.regions if region.part_name}:
                    counts[name] = counts.get(name, 0) + 1
            rows = [_features(groups[item.id], segmenter) for item in groups_before]
            labelled = Labelled(counts, np.stack(rows) if rows else None)
        return predictions, choose(self.strategy, facts, len(candidates), labelled=labelled, seed=self.seed)

    def _annotated(self, group: PoolGroup, correction: Correction, version: str, number: int) -> AnnotatedGroup:
        assert correction.target is not None
        images_of = group.group
        images = tuple(
            ImageReference(source, size_hw, digest, key)
            for source, size_hw, digest, key in zip(
                group.sources, images_of.sizes_hw, images_of.digests, group.keys, strict=True
            )
        )
        provenance = {
            "task": group.id,
            "annotator": "simulated",
            "accepted_as_is": correction.is_untouched,
            "model_version": version,
            "round": number,
        }
        order = number * self.settings.pool_size + group.order
        return AnnotatedGroup(group.id, images, correction.target, provenance, order=order)


def _facts(group: PoolGroup, prediction: CoSegmentation, segmenter: CoSegmenter) -> GroupFacts:
    scores = [region.score for region in prediction.regions]
    parts = tuple(PredictedPart(region.name, region.score) for region in prediction.regions if region.kind == "part")
    confidence = float(np.mean(scores)) if scores else None
    return GroupFacts(group.id, parts, confidence, _features(group, segmenter))


def _features(group: PoolGroup, segmenter: CoSegmenter) -> np.ndarray:
    rows = image_features(segmenter.model, segmenter.config, group.group.images)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)


def _counted(correction: Correction) -> dict[str, Any]:
    return {
        "skipped": correction.target is None,
        "untouched": correction.is_untouched,
        "kept": correction.num_kept,
        "redrawn": correction.num_redrawn,
        "missed": correction.num_missed,
        "misnamed": correction.num_misnamed,
    }


# -- measuring --------------------------------------------------------------------------------------------------------


def _figures(settings: Simulation, model: Path, tell: OnProgress) -> dict[str, Any]:
    """`held_out` and `base` of one version, as `calico.training.scoring.score` gives them, scores by group too."""
    segmenter = CoSegmenter.from_checkpoint(model)
    base_data = base_data_of(segmenter.config, settings.base_data, model)

    def scored(what: str, items: Iterable[Item], num_items: int) -> dict[str, Any]:
        def on_group(number: int, *_: object) -> None:
            tell(f"scoring {what}", number / num_items, f"{number} of {num_items}")

        return score(segmenter, items, on_group)

    return {
        "held_out": scored(
            "held-out groups",
            settings.pool.held_out(settings.num_held_out),
            settings.num_held_out,
        ),
        "base": scored("the base test", base_data.items(settings.num_base), settings.num_base),
    }


# -- files ------------------------------------------------------------------------------------------------------------


def start_preset(checkpoint: Path) -> str:
    return str(read_card(checkpoint / "config.json", "preset")["preset"])


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `path` holds, made once: it appears whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(make(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _claim(path: Path, settings: dict[str, Any]) -> None:
    """More seeds and strategies may be added to a folder later; all else has to be the same."""
    options = json.loads(json.dumps(settings))
    for key in ("seeds", "strategies"):
        options.pop(key)
    stored_options = _kept(path, lambda: options)
    if odd := sorted(key for key in options if options[key] != stored_options.get(key)):
        differences = ", ".join(f"{key} {stored_options.get(key)!r} there, {options[key]!r} asked" for key in odd)
        raise InputError(
            f"{path.parent}: holds another simulation ({differences}); use another --out, or the same options"
        )
