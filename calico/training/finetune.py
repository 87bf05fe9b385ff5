"""Finetuning on a snapshot: an adapter over a checkpoint, with base data replayed against forgetting.

`finetune` trains and leaves the adapter in OUT/version; who wants it compared and registered too calls
`calico.training.challenge`. How a run goes, is resumed and distributed: `calico.training.run`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from calico.checkpoints.adapter import load_trained, save_adapter, trained
from calico.errors import InputError
from calico.files import write_text
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.inputs import ModelInputs
from calico.model.modes import trained_share
from calico.model.precision import uses_bf16
from calico.snapshots.splits import TRAIN, VALIDATION
from calico.snapshots.store import Snapshot
from calico.training.base_data import BaseData, base_data_of
from calico.training.corrected_groups import CorrectedGroup
from calico.training.corrections import CorrectionBatches, read_splits
from calico.training.curves import plot_curves
from calico.training.finetune_settings import FinetuneSettings
from calico.training.mistaken_names import mistaken_names
from calico.training.preflight import tell_memory
from calico.training.processes import Processes
from calico.training.recipe import finetune_settings
from calico.training.retention import Anchor
from calico.training.run import OnStep, Run, Stage
from calico.training.run_folder import LOG, RunState
from calico.training.starting_model import TRAINING, open_start, seen_groups, start_config
from calico.training.step import TrainingStep

logger = logging.getLogger(__name__)
VERSION_FOLDER = "version"


@dataclass(frozen=True)
class FinetuneResult:
    """folder: the adapter's, ready for `CoSegmenter.from_checkpoint` or the registry. base: `weights_version` of its
    checkpoint. num_groups: by split, those that were trained and validated on."""

    folder: Path
    base: str
    preset: str
    state: RunState
    num_groups: dict[str, int]
    num_weights: int
    num_bytes: int


#: Writes more files into the adapter's folder: (folder, model, config, tokenizer, groups of validation and training).
Finisher = Callable[[Path, CalicoModel, CalicoConfig, CalicoTokenizer, Sequence[CorrectedGroup]], None]


def finetune(
    snapshot: Snapshot,
    start: Path | None,
    out: Path,
    settings: FinetuneSettings | None = None,
    on_step: OnStep | None = None,
    *,
    base: Path | None = None,
    base_data: BaseData | None = None,
    train_ids: Collection[str] | None = None,
    finishers: Sequence[Finisher] = (),
) -> FinetuneResult:
    """Trains an adapter on the snapshot's training split; its validation split says when to stop.

    settings: None for the recipe of the start's preset.
    start: a checkpoint's folder, or an adapter's, whose weights are gone on with; None: the embedded checkpoint.
    base: the checkpoint of that adapter, where it is not the embedded one. base_data: what it learnt from, to replay,
    beside drawings where it learnt from these; None: drawings. train_ids: other groups than the training split, without
    validation. on_step: state, loss terms, progress 0 to 1.

    Raises `InputError` for a snapshot without training groups, an `out` of another run or a start that did not learn
    from drawings where `base_data` is None; else `CheckpointError`.
    """
    settings = settings or finetune_settings(start_config(start, base))
    run = Finetune(snapshot, start, out, settings, base, base_data, train_ids)
    run.train(on_step)
    return run.finish(finishers)


class Finetune(Run[FinetuneSettings]):
    """One run in the folder `out`. Opening it loads what there is; `train` goes on, `finish` leaves the adapter."""

    def __init__(
        self,
        snapshot: Snapshot,
        start: Path | None,
        out: Path,
        settings: FinetuneSettings,
        base: Path | None = None,
        base_data: BaseData | None = None,
        train_ids: Collection[str] | None = None,
    ) -> None:
        if settings.minutes <= 0 or (settings.cpu_minutes or 1) <= 0 or (settings.steps or 0) < 0:
            raise InputError(
                f"a finetune takes minutes above 0 and steps from 0 on, got {settings.minutes} minutes, "
                f"{settings.cpu_minutes} CPU minutes and {settings.steps} steps"
            )
        self.out = Path(out)
        processes = Processes()
        base_data = base_data_of(start_config(start, base), base_data, start)
        torch.manual_seed(settings.seed)
        model, self.config, self.tokenizer, self.card = open_start(
            start, base, processes.device, settings.bits, halved=_is_bf16(settings, processes.device)
        )
        if settings.gradient_checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        if processes.is_main:
            num_trained, num_weights = trained_share(model)
            logger.info("trains %d of %d weights, %.2f %%", num_trained, num_weights, 100 * num_trained / num_weights)
        self.seen = seen_groups(start)
        self.trained = trained(model)
        size = self.config.grounding_encoder.image_size
        self.groups, self.validation_groups = read_splits(
            snapshot, train_ids, size, settings.accepted_as_is, settings.max_validation_groups
        )
        favoured = processes.on_main(lambda: mistaken_names(model, self.config, self.tokenizer, self.groups))
        if favoured:
            logger.info("taken for %s before: half of the base data will show these", ", ".join(favoured))
        self.batches = CorrectionBatches(
            self.groups,
            base_data.draw,
            self.tokenizer,
            settings.batch,
            ModelInputs.from_config(self.config),
            settings.seed,
            base_data.vocabulary,
            settings.replay_share,
            favoured,
        )
        step_module = TrainingStep(model, None, settings.weights, size, settings.max_seg_prompts)
        step_module.to(processes.device)
        lora = [parameter for name, parameter in self.trained.items() if ".lora_" in name]
        whole = [parameter for name, parameter in self.trained.items() if ".lora_" not in name]
        super().__init__(
            self.out,
            {
                "start": self.card.base if start is None else str(start),
                "base": self.card.base,
                "snapshot": snapshot.content_sha256,
                "groups": None if train_ids is None else sorted(train_ids),
                "base_data": base_data.name,
                "settings": asdict(settings),
            },
            settings,
            step_module,
            torch.optim.AdamW(
                [{"params": lora, "share": 1.0}, {"params": whole, "share": settings.whole_share}],
                lr=settings.learning_rate,
                betas=(0.9, 0.95),
                weight_decay=0.0,
            ),
            self.trained,
            [Stage(1.0, self.batches.batch, size, settings.max_seg_prompts)],
            processes,
            mode="paper",
            anchor=Anchor(model, self.trained) if settings.anchored else None,
            validation=partial(self.batches.all_fixed, self.validation_groups) if self.validation_groups else None,
        )
        if self.progress < 1 and processes.is_main:
            tell_memory(
                model,
                self.config,
                self.batches.batch(self.state.step * processes.num, 0, self.state.num_parts),
                settings.max_seg_prompts,
                dtype=torch.bfloat16 if self._is_bf16 else torch.float32,
                checkpointing=settings.gradient_checkpointing,
            )

    @property
    def _is_bf16(self) -> bool:
        return _is_bf16(self.settings, self.device)

    def finish(self, finishers: Sequence[Finisher] = ()) -> FinetuneResult:
        """The adapter in OUT/version, with the best weights: adapter.safetensors, adapter.json, training.json and
        curves.png. training.json holds the ids of all groups that these weights have seen."""
        num_bytes = self.processes.on_main(lambda: self._finish(finishers))
        return FinetuneResult(
            self.out / VERSION_FOLDER,
            self.card.base,
            self.config.preset,
            self.state,
            {TRAIN: len(self.groups), VALIDATION: len(self.validation_groups)},
            sum(p.numel() for p in self.trained.values()),
            num_bytes,
        )

    def _finish(self, finishers: Sequence[Finisher]) -> int:
        if self.best:
            load_trained(self.model, self.best)
        folder = self.out / VERSION_FOLDER
        save_adapter(folder, self.card, self.trained)
        seen = sorted(self.seen | {group.id for group in (*self.groups.outlines, *self.validation_groups.outlines)})
        write_text(folder / TRAINING, json.dumps({"groups": seen}, ensure_ascii=False, indent=1) + "\n")
        plot_curves(self.out / LOG, folder / "curves.png")
        known = [*self.validation_groups, *self.groups] if finishers else []
        for finisher in finishers:
            finisher(folder, self.model, self.config, self.tokenizer, known)
        return sum(path.stat().st_size for path in folder.glob("adapter.*"))


def _is_bf16(settings: FinetuneSettings, device: torch.device) -> bool:
    is_quantised_on_gpu = settings.bits is not None and device.type == "cuda"
    return is_quantised_on_gpu or uses_bf16(settings.precision, device)
