"""The same training with modules left out, each measured on the same held-out groups.

From fresh weights, or, as in the paper, from encoders, Q-Former and language model that know something already, where
only CEM and CAM are new. Those weights may have learnt beside a CEM and a CAM of their own, which are dropped.

CEM reaches an answer only through CAM, which reads X'_global. So `no CAM` and `neither` are one function, trained from
other initial weights: what they differ by is what chance makes of two runs, and a smaller difference elsewhere says
nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from calico.checkpoints.files import TOKENIZER, check_keys, read_config, read_weights, save_checkpoint, tied_keys
from calico.checkpoints.fingerprint import WEIGHTS, weights_version
from calico.drawings import VERSION
from calico.errors import InputError
from calico.evaluation import evaluate_drawings
from calico.files import write_text, written_whole
from calico.inference.segmenter import CoSegmenter
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.config import CalicoConfig
from calico.training.run import OnStep
from calico.training.run_folder import RunState
from calico.training.trainer import CHECKPOINT, Trainer, TrainingSettings

VARIANTS: dict[str, tuple[str, ...]] = {
    "full": (),
    "no CEM": ("cem",),
    "no CAM": ("cam",),
    "neither": ("cam", "cem"),
    "no auxiliary losses": ("auxiliary",),
}
FIGURES = (
    "strict_miou", "strict_miou_parts", "strict_miou_objects", "name_precision", "name_recall", "occurrence_accuracy",
    "none_precision", "none_recall", "mIoU", "S_IoU",
)  # fmt: skip
PLAN, EVALUATION, REPORT, TABLE, PICTURE, START = (
    "plan.json", "evaluation.json", "ablation.json", "ablation.md", "ablation.png", "start",
)  # fmt: skip
NEW = ("cem.", "cams.", "cam_queries")  # names of the weights that a start does not give

#: Called with the variant, `training` or `evaluating`, and the share of that which is done.
OnProgress = Callable[[str, str, float], None]


@dataclass(frozen=True)
class AblationPlan:
    """What all variants share. num_images: of a step at full size; questions, clicks and masks are in proportion.
    num_groups: held-out groups of two, drawn from `evaluation_seed`. start: version of the weights that all but CEM and
    CAM come from, which `run_ablation` enters; None: fresh weights, whose training begins at a lower resolution."""

    steps: int
    seed: int = 0
    num_images: int = 24
    num_groups: int = 300
    evaluation_seed: int = 7
    data_version: str = VERSION
    start: str | None = None
    learning_rate: float = TrainingSettings.learning_rate


def run_ablation(
    folder: Path,
    plan: AblationPlan,
    config: CalicoConfig,
    tokenizer: CalicoTokenizer,
    settings: TrainingSettings,
    on_progress: OnProgress = lambda variant, stage, done: None,
    start: Path | None = None,
) -> dict[str, Any]:
    """Trains and measures each variant in a folder of its own below `folder`, skipping what is there.

    Leaves ablation.json (the report, also returned), ablation.md and ablation.png. A run that was killed goes on where
    its last save was. settings: all that the plan does not say. start: a checkpoint that gives all weights but CEM's
    and CAM's, and config and tokenizer. Raises `InputError` for a folder of another plan, `CheckpointError` for a start
    that is none.
    """
    if start is not None:
        read_weights(start)  # what is wrong with them is said before anything is written
        config, tokenizer = read_config(start), CalicoTokenizer.from_file(start / TOKENIZER)
        plan = dataclasses.replace(plan, start=weights_version(start))
        settings = dataclasses.replace(settings, phases=settings.phases[-1:])
    _hold_plan(folder, plan)
    share = plan.num_images / settings.batch.num_images
    settings = dataclasses.replace(
        settings,
        steps=plan.steps,
        minutes=None,
        seed=plan.seed,
        learning_rate=plan.learning_rate,
        batch=settings.batch.scaled(share),
        max_seg_prompts=max(1, round(settings.max_seg_prompts * share)),
    )
    reports = {}
    for variant, without in VARIANTS.items():
        place = folder / variant.replace(" ", "_")
        if not (place / EVALUATION).exists():
            own_config = dataclasses.replace(config, data_version=plan.data_version, without=without)
            own_start = None if start is None else _with_new_modules(start, place / START, own_config, plan.seed)
            trainer = Trainer(place, settings, own_config, tokenizer, own_start)
            state = trainer.run(_training_reporter(variant, on_progress))
            measured = _measured(variant, place / CHECKPOINT, plan, on_progress)
            write_text(place / EVALUATION, json.dumps({"training": asdict(state), **measured}, indent=2) + "\n")
        reports[variant] = json.loads((place / EVALUATION).read_text(encoding="utf-8"))
    report = {"plan": asdict(plan), "variants": {name: _row(report_of) for name, report_of in reports.items()}}
    write_text(folder / REPORT, json.dumps(report, indent=2) + "\n")
    write_text(folder / TABLE, table(report))
    plot(report, folder / PICTURE)
    return report


def _with_new_modules(start: Path, folder: Path, config: CalicoConfig, seed: int) -> Path:
    """Writes `folder`: the weights in `start`, with CEM and CAM, as far as `config` has them, as they begin."""
    torch.manual_seed(seed)
    model = build(config)
    expected = {name: value for name, value in model.state_dict().items() if not name.startswith(NEW)}
    weights = {name: value for name, value in read_weights(start).items() if not name.startswith(NEW)}
    check_keys(start / WEIGHTS, expected, weights, tied_keys(model), config.preset)
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    with torch.no_grad():
        model.cam_queries.copy_(model.qformer.queries)
    save_checkpoint(folder, model, config, CalicoTokenizer.from_file(start / TOKENIZER))
    return folder


def _hold_plan(folder: Path, plan: AblationPlan) -> None:
    path = folder / PLAN
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != asdict(plan):
            raise InputError(f"{path}: this folder's runs follow {before}, asked for {asdict(plan)}; use another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(plan), indent=2) + "\n")


def _training_reporter(variant: str, on_progress: OnProgress) -> OnStep:
    def on_step(state: RunState, terms: dict[str, float], progress: float) -> None:
        on_progress(variant, "training", progress)

    return on_step


def _measured(variant: str, checkpoint: Path, plan: AblationPlan, on_progress: OnProgress) -> dict[str, Any]:
    segmenter = CoSegmenter.from_checkpoint(checkpoint)
    last: dict[str, Any] = {}
    for done, report in evaluate_drawings(segmenter, plan.num_groups, plan.evaluation_seed):
        on_progress(variant, "evaluating", done / plan.num_groups)
        last = report or last
    return {"checkpoint": segmenter.version, **last}


def _row(report: Mapping[str, Any]) -> dict[str, Any]:
    overall = report["overall"]
    return {
        "checkpoint": report["checkpoint"],
        **{name: overall[name] for name in FIGURES},
        "stderr": overall["stderr"],
        "n": {name: overall["n"][name] for name in FIGURES},
        "training": report["training"],
    }


def table(report: Mapping[str, Any]) -> str:
    """Markdown: a row per figure, a column per variant; a figure without samples is a dash."""
    rows = report["variants"]
    lines = [f"| | {' | '.join(rows)} | n |", "|" + "---|" * (len(rows) + 2)]
    for name in FIGURES:
        values = ["-" if row[name] is None else f"{row[name]:.3f}" for row in rows.values()]
        counts = sorted({row["n"][name] for row in rows.values()})
        num = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        lines.append(f"| {name} | {' | '.join(values)} | {num} |")
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any], picture: Path) -> None:
    """Strict mIoU of parts and objects per variant, with two standard errors to each side."""
    from matplotlib.figure import Figure  # late: half a second of imports, and no display is needed

    figure = Figure(figsize=(9, 4), layout="constrained")
    rows = report["variants"]
    for axes, name in zip(
        figure.subplots(1, 2, sharey=True), ("strict_miou_parts", "strict_miou_objects"), strict=True
    ):
        values = [row[name] or 0.0 for row in rows.values()]
        errors = [2 * (row["stderr"][name] or 0.0) for row in rows.values()]
        axes.barh(list(rows), values, xerr=errors, color="#4c78a8", ecolor="#222222", capsize=3)
        axes.set(title=name, xlim=(0, 1))
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    plan = report["plan"]
    start = f" from {plan['start']}" if plan["start"] else ""
    figure.suptitle(
        f"{plan['steps']} steps each{start}, seed {plan['seed']}, {plan['num_groups']} held-out groups of two"
    )
    with written_whole(picture, is_durable=False) as temporary:
        figure.savefig(temporary, dpi=110)
