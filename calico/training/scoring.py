"""A model against groups that it has not seen: what the gate compares, and the figures beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from calico.checkpoints.adapter import AdapterCard
from calico.checkpoints.fingerprint import ADAPTER_CARD, is_adapter, read_card
from calico.checkpoints.gate import TEST_SCORES
from calico.checkpoints.registry import Registry
from calico.files import write_text, written_whole
from calico.inference.options import ServingOptions
from calico.inference.segmenter import CoSegmenter
from calico.metrics.strict import Answered, compare, keyed, strict_miou
from calico.metrics.summary import Evaluation
from calico.model.out_of_memory import give_back_memory
from calico.pictures.overlay import strip_of_overlays
from calico.snapshots.store import Snapshot
from calico.training.base_data import Item
from calico.training.processes import Processes
from calico.values import CoSegmentation, ImageGroup

FIGURE_NAMES = (
    "strict_miou", "strict_miou_parts", "strict_miou_objects", "name_precision", "name_recall", "occurrence_accuracy",
    "malformed_rate", "none_precision", "none_recall",
)  # fmt: skip

NUM_PICTURES = 5  # of those groups, to look at: before and after

ACCEPTED_IOU = 0.75  # with an accepted prediction's mask: as good as the same

OnProgress = Callable[[str, float, str], None]  # what is being done, 0 to 1 of it, a note


def held_out_items(snapshot: Snapshot, ids: Iterable[str]) -> Iterable[Item]:
    """The groups with these ids."""
    names = set(ids)
    for group in snapshot.groups():
        if group.id in names:
            if group.partial_images:
                continue  # a right answer would count as wrong where something is not annotated
            yield group.id, snapshot.load_images(group), group.target


def score(
    segmenter: CoSegmenter,
    items: Iterable[Item],
    on_group: Callable[[int, ImageGroup, CoSegmentation], None] | None = None,
    accepted: Collection[str] = (),
) -> dict[str, Any]:
    """`scores`: `group_score` of each group's reconciled result. `figures`: over all groups; `overall` means of the
    questions' own answers, `reconciled` of what an annotator sees. accepted: ids of groups accepted as predicted.
    on_group: called after each group with its number from 1, its images and what an annotator would see."""
    evaluation, scores = Evaluation(), {}
    for number, (group_id, images, truth) in enumerate(items, start=1):
        answers = segmenter.answer(images, constrained=False)
        merged = segmenter.reconciled(images, answers)
        answered = {task: Answered.from_parsed(a.parsed, a.masks, a.scores) for task, a in answers.items()}
        evaluation.add(group_id, truth, answered, merged)
        scores[group_id] = group_score(truth, merged, accepted=group_id in accepted)
        if on_group:
            on_group(number, images, merged)
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


def group_score(truth: CoSegmentation, prediction: CoSegmentation, *, accepted: bool = False) -> float:
    """Strict mIoU of a group's parts, 0 to 1; 1 where it rightly shows none. What the gate compares.

    accepted: the truth is a prediction that was submitted untouched. It was good enough, no more, and its own maker
    would agree with every pixel of it: an IoU of `ACCEPTED_IOU` counts as 1, less in proportion.
    """
    matches = compare(keyed(truth.regions), keyed(prediction.regions))
    if accepted:
        matches = [match._replace(iou=min(1.0, match.iou / ACCEPTED_IOU)) for match in matches]
    value = strict_miou(matches, "part")
    return 1.0 if value is None else min(1.0, value)


class KeptScores:
    """Scores that are computed once, whatever is killed, by the main process; one model in memory at a time, its
    language model in so many bits."""

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        tell: OnProgress,
        processes: Processes,
        *,
        bits: int | None = None,
        accepted: Collection[str] = (),
    ) -> None:
        self.folder, self.registry, self.tell, self.processes = folder, registry, tell, processes
        self.accepted = accepted
        self._options = ServingOptions(llm_bits=bits)
        self._loaded: tuple[Path, CoSegmenter] | None = None

    def scored(self, model: Path, name: str, items: Iterable[Item], num_items: int) -> dict[str, Any]:
        return self.processes.on_main(lambda: self._scored(model, name, items, num_items))

    def _scored(self, model: Path, name: str, items: Iterable[Item], num_items: int) -> dict[str, Any]:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{name}.json"
        if not path.exists():

            def on_group(number: int, images: ImageGroup, merged: CoSegmentation) -> None:
                if name.startswith(TEST_SCORES) and number <= NUM_PICTURES:
                    with written_whole(self.folder / f"{name}-{number}.jpg") as temporary:
                        temporary.write_bytes(strip_of_overlays(images.images, merged, height=200))
                self.tell(f"scoring {name}", number / max(1, num_items), f"{number} of {num_items} groups")

            scores = score(self._segmenter(model), items, on_group, self.accepted)
            write_text(path, as_text(scores))
        return read_card(path, "scores", "figures")

    def _segmenter(self, model: Path) -> CoSegmenter:
        if self._loaded is None or self._loaded[0] != model:
            self.release()  # first: two may not fit
            segmenter = CoSegmenter.from_checkpoint(model, base=self._base(model), options=self._options)
            self._loaded = (model, segmenter)
        return self._loaded[1]

    def release(self) -> None:
        """Lets go of the model, for what else needs the memory."""
        self._loaded = None
        give_back_memory()

    def _base(self, model: Path) -> Path | None:
        """Of an adapter that is not in the registry yet, while its base is; None: the loader finds it."""
        base_id = AdapterCard.from_file(model / ADAPTER_CARD).base_id if is_adapter(model) else None
        return self.registry.path_of(base_id) if base_id and base_id in self.registry.ids() else None


def as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
