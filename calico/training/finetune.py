"""Finetuning on a snapshot: an adapter over a checkpoint, with base data replayed against forgetting.

`finetune` trains and leaves the adapter in OUT/version; who wants it compared and registered too calls
`calico.training.challenge`. The same call resumes a run that was killed. Under `accelerate launch` several processes
train one adapter, each on batches of its own; the main one tells the time, validates and writes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calico.checkpoints.adapter import load_trained, save_adapter, trained
from calico.errors import CalicoError, InputError
from calico.files import write_text
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.inputs import ModelInputs
from calico.model.modes import train_mode, trained_share
from calico.model.out_of_memory import give_back_memory, is_out_of_memory
from calico.model.precision import uses_bf16
from calico.snapshots.splits import TRAIN, VALIDATION
from calico.snapshots.store import Snapshot
from calico.training.base_data import BaseData, base_data_of
from calico.training.batches import TrainingBatch
from calico.training.corrected_groups import CorrectedGroup
from calico.training.corrections import CorrectionBatches, read_splits
from calico.training.curves import plot_curves
from calico.training.finetune_settings import FinetuneSettings
from calico.training.mistaken_names import mistaken_names
from calico.training.prefetch import Prefetcher
from calico.training.preflight import tell_memory
from calico.training.processes import OutOfMemoryTogether, Processes
from calico.training.recipe import finetune_settings
from calico.training.retention import Anchor
from calico.training.run_folder import LOG, FinetuneState, RunFolder, known_mean
from calico.training.schedule import falling
from calico.training.starting_model import TRAINING, open_start, seen_groups, start_config
from calico.training.step import TrainingStep

logger = logging.getLogger(__name__)
VERSION_FOLDER = "version"
MAX_LOOK_SHARE = 0.2  # of a run's time, for looks at the validation split before its end


@dataclass(frozen=True)
class FinetuneResult:
    """folder: the adapter's, ready for `CoSegmenter.from_checkpoint` or the registry. base: `weights_version` of its
    checkpoint. num_groups: by split, those that were trained and validated on."""

    folder: Path
    base: str
    preset: str
    state: FinetuneState
    num_groups: dict[str, int]
    num_weights: int
    num_bytes: int


#: Writes more files into the adapter's folder: (folder, model, config, tokenizer, training groups).
Finisher = Callable[[Path, CalicoModel, CalicoConfig, CalicoTokenizer, Sequence[CorrectedGroup]], None]
OnStep = Callable[[FinetuneState, dict[str, float], float], None]


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
    base: the checkpoint of that adapter, where it is not the embedded one. base_data: what it learnt from, to replay;
    None: drawings. train_ids: other groups than the training split, without validation. on_step: state, loss terms,
    progress 0 to 1.

    Raises `InputError` for a snapshot without training groups, an `out` of another run or a start that did not learn
    from drawings where `base_data` is None; else `CheckpointError`.
    """
    settings = settings or finetune_settings(start_config(start, base))
    run = Finetune(snapshot, start, out, settings, base, base_data, train_ids)
    run.train(on_step)
    return run.finish(finishers)


class Finetune:
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
        self.out, self.settings = Path(out), settings
        self.folder = RunFolder(self.out)
        self.processes = Processes()
        self.device = self.processes.device
        self.state = FinetuneState(num_parts=max(1, settings.num_parts))
        base_data = base_data_of(start_config(start, base), base_data, start)
        torch.manual_seed(settings.seed)
        self.model, self.config, self.tokenizer, self.card = open_start(
            start, base, self.device, settings.bits, halved=self._is_bf16
        )
        if settings.gradient_checkpointing:
            self.model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        if self.processes.is_main:
            num_trained, num_weights = trained_share(self.model)
            logger.info("trains %d of %d weights, %.2f %%", num_trained, num_weights, 100 * num_trained / num_weights)
        self.seen = seen_groups(start)
        self.trained = trained(self.model)
        size = self.config.grounding_encoder.image_size
        self.groups, self.validation = read_splits(
            snapshot, train_ids, size, settings.accepted_as_is, settings.max_validation_groups
        )
        favoured = self.processes.on_main(lambda: mistaken_names(self.model, self.config, self.tokenizer, self.groups))
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
        self._prefetched = Prefetcher(self.batches.batch, settings.num_workers, self.processes.num)
        self.step_module = TrainingStep(self.model, None, settings.weights, size, settings.max_seg_prompts)
        self.step_module.to(self.device)
        lora = [parameter for name, parameter in self.trained.items() if ".lora_" in name]
        whole = [parameter for name, parameter in self.trained.items() if ".lora_" not in name]
        self.optimizer = torch.optim.AdamW(
            [{"params": lora, "share": 1.0}, {"params": whole, "share": settings.whole_share}],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        self.anchor = Anchor(self.model, self.trained) if settings.anchored else None
        self.best: dict[str, Tensor] = {}
        run = {
            "start": self.card.base if start is None else str(start),
            "base": self.card.base,
            "snapshot": snapshot.content_sha256,
            "groups": None if train_ids is None else sorted(train_ids),
            "base_data": base_data.name,
            "settings": asdict(settings),
        }
        self.processes.on_main(lambda: self.folder.claim(run))
        self._resume()
        if self.progress < 1 and self.processes.is_main:
            batch = self.batches.batch(self.state.step * self.processes.num, 0, self.state.num_parts)
            tell_memory(
                self.model,
                self.config,
                batch,
                settings.max_seg_prompts,
                dtype=torch.bfloat16 if self._is_bf16 else torch.float32,
                checkpointing=settings.gradient_checkpointing,
            )

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """0 to 1 of the run."""
        if self.state.stopped:
            return 1.0
        if self.settings.steps is not None:
            return min(1.0, self.state.step / self.settings.steps) if self.settings.steps else 1.0
        if self.settings.cpu_minutes is not None:
            return min(1.0, self.state.cpu_seconds / 60 / self.settings.cpu_minutes)
        return min(1.0, self.state.seconds / 60 / self.settings.minutes)

    def train(self, on_step: OnStep | None = None) -> FinetuneState:
        """To the end of the run, or until the validation split says that it gets no better."""
        if self.progress < 1 and not self.state.num_looks:
            self._look()
        saved_at, window = self.state.seconds, []
        while self.progress < 1:
            started, cpu_started = time.monotonic(), time.process_time()
            terms = self._one_step()
            self.state.step += 1
            self.state.seconds += time.monotonic() - started
            self.state.cpu_seconds += time.process_time() - cpu_started
            self._agree()
            window.append(terms)
            if len(window) >= self.settings.log_steps:
                if self.processes.is_main:
                    self.folder.log(self.state, window)
                window = []
            if self._is_time_to_look():
                self._look()
            if on_step:
                on_step(self.state, terms, self.progress)
            if self.progress >= 1 and not self.state.stopped:
                self.state.stopped = "length"
            if self.state.stopped or self.state.seconds - saved_at > self.settings.save_seconds:
                self.save()
                saved_at = self.state.seconds
        self._prefetched.stop()
        return self.state

    def _is_time_to_look(self) -> bool:
        """A short run by time looks less often, or it would do little else."""
        state, settings = self.state, self.settings
        has_time = settings.steps is not None or state.look_seconds <= MAX_LOOK_SHARE * state.seconds
        return self.progress >= 1 or (has_time and self.progress >= state.num_looks / settings.num_validations)

    def _agree(self) -> None:
        """All stand where the main process does: they change the rate, look and end at the same step."""
        if self.processes.num > 1:
            self.state = FinetuneState(**self.processes.told(asdict(self.state)))

    def _one_step(self) -> dict[str, float]:
        """Repeated with smaller micro-batches where memory runs out. Depends on the step alone, so resumes exactly."""
        while True:
            try:
                return self._tried_step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.processes.num > 1 and not isinstance(error, OutOfMemoryTogether):
                    raise  # the others have gone on
                self._halve(error)

    def _tried_step(self) -> dict[str, float]:
        torch.manual_seed(self.settings.seed * 1_000_003 + self.state.step)
        train_mode(self.model, "paper")
        rate = self.settings.learning_rate * self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad()
        found: dict[str, list[float]] = {}
        num_parts = self.state.num_parts
        number = self.state.step * self.processes.num + self.processes.index
        with self.processes.agreeing():
            for part in range(num_parts):
                result = self._loss(self._prefetched(number, part, num_parts))
                (result.loss / num_parts).backward()
                for name, value in {"loss": float(result.loss.detach()), **result.terms}.items():
                    found.setdefault(name, []).append(value)
        self.processes.average(self.trained.values())
        norm = torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.settings.clip_norm)
        if not torch.isfinite(norm):
            raise CalicoError(f"step {self.state.step}: the gradient is not finite; lower the learning rate")
        self.optimizer.step()
        return {**{name: known_mean(values) for name, values in found.items()}, "rate": rate}

    @property
    def _is_bf16(self) -> bool:
        is_quantised_on_gpu = self.settings.bits is not None and self.device.type == "cuda"
        return is_quantised_on_gpu or uses_bf16(self.settings.precision, self.device)

    def _loss(self, batch: TrainingBatch) -> Any:
        """Frozen encoders see each image once, for the anchor and the finetune alike."""
        batch, taught, seen = batch.to(self.device), None, None
        if self.model.has_frozen_encoders:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_bf16):
                seen = self.step_module.see(batch)
        if self.anchor is not None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_bf16):
                taught = self.anchor.answer_logits(batch, seen)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_bf16):
            return self.step_module(batch, taught, seen)

    def _halve(self, error: BaseException) -> None:
        self.optimizer.zero_grad()
        if self.settings.batch.num_images // (2 * self.state.num_parts) < 2:
            raise CalicoError(f"out of memory with two images at a time ({str(error).splitlines()[0]})") from error
        self.state.num_parts *= 2
        images = self.settings.batch.num_images // self.state.num_parts
        logger.warning("out of memory: the micro-batch is halved to %d images", images)
        give_back_memory()

    def _rate(self) -> float:
        warm = min(1.0, (self.state.step + 1) / self.settings.warmup_steps)
        return warm * falling(self.progress, linear=self.settings.linear, least=0.02)

    def _look(self) -> None:
        """The validation split, with its share of base images: keeps the weights that do best on both."""
        self.state.num_looks += 1
        if self.validation:
            self.processes.on_main(self._validate)
            self._agree()

    @torch.no_grad()
    def _validate(self) -> None:
        started, cpu_started, state = time.monotonic(), time.process_time(), self.state
        self.model.eval()
        losses: list[float] = []
        while True:
            try:
                batches = self.batches.all_fixed(self.validation, state.num_parts)
                losses = [float(self._loss(batch).loss) for batch in batches]
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
        loss = sum(losses) / len(losses)
        took = time.monotonic() - started
        state.seconds += took
        state.cpu_seconds += time.process_time() - cpu_started
        state.look_seconds += took
        if state.looked(loss, self.settings.patience):
            self.best = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.folder.log(state, [{"validation": loss}])

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """What the next start resumes from."""
        if self.processes.is_main:
            self.folder.save(self.trained, self.best, self.optimizer, self.state)

    def _resume(self) -> None:
        found = self.folder.resume(self.trained, self.optimizer, self.device)
        if found is not None:
            self.best, self.state = found
        self.processes.on_main(lambda: self.folder.keep_log_until(None if found is None else self.state.step))
        self.processes.share(self.trained.values())

    def finish(self, finishers: Sequence[Finisher] = ()) -> FinetuneResult:
        """The adapter in OUT/version, with the best weights: adapter.safetensors, adapter.json, training.json and
        curves.png. training.json holds the ids of all groups that these weights have seen."""
        num_bytes = self.processes.on_main(lambda: self._finish(finishers))
        return FinetuneResult(
            self.out / VERSION_FOLDER,
            self.card.base,
            self.config.preset,
            self.state,
            {TRAIN: len(self.groups), VALIDATION: len(self.validation)},
            sum(p.numel() for p in self.trained.values()),
            num_bytes,
        )

    def _finish(self, finishers: Sequence[Finisher]) -> int:
        if self.best:
            load_trained(self.model, self.best)
        folder = self.out / VERSION_FOLDER
        save_adapter(folder, self.card, self.trained)
        seen = sorted(self.seen | {group.id for group in (*self.groups.outlines, *self.validation.outlines)})
        write_text(folder / TRAINING, json.dumps({"groups": seen}, ensure_ascii=False, indent=1) + "\n")
        plot_curves(self.out / LOG, folder / "curves.png")
        for finisher in finishers:
            finisher(folder, self.model, self.config, self.tokenizer, self.groups)
        return sum(path.stat().st_size for path in folder.glob("adapter.*"))
