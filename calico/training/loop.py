"""The training loop: phases of growing resolution, one cosine over the whole run, exact resume, files to look at.

accelerate places it on whatever there is: a CPU, one GPU, or several processes under `accelerate launch`, each with
batches of its own and the mean of their gradients; the main one tells the time and writes all files. A resumed run
repeats an unbroken one to the bit with one thread; several threads add up in an order of their own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from torch.utils.data import DataLoader

from calico.checkpoints.files import TOKENIZER, load_checkpoint, load_grown, save_checkpoint
from calico.checkpoints.fingerprint import weights_version
from calico.drawings import VERSION
from calico.files import written_whole
from calico.language.tokenizer import CalicoTokenizer
from calico.mixedparts.index import MixedParts
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.inputs import ModelInputs
from calico.model.modes import add_lora, merge_lora, set_mode, train_mode
from calico.model.precision import uses_bf16
from calico.training.auxiliary import AuxiliaryHeads
from calico.training.batches import DRAWN, BatchSettings, DrawingBatches, TrainingBatch, Vocabulary
from calico.training.curves import plot_curves
from calico.training.index_batches import IndexBatches
from calico.training.losses import SMALL_MODEL_WEIGHTS, LossWeights
from calico.training.mixed_batches import MixedBatches
from calico.training.mixture import Mixture
from calico.training.new_trunk import with_trunk
from calico.training.prefetch import usable_workers
from calico.training.run_folder import (
    LOG,
    STATE,
    add_to_log,
    is_noted,
    keep_log_until,
    known_mean,
    note_run,
    unusable_state,
)
from calico.training.schedule import falling
from calico.training.step import TrainingStep
from calico.training.watch import Watch

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"
MAY_CHANGE = ("minutes", "steps", "checkpoint_minutes")  # of a run's settings: it may be lengthened


@dataclass(frozen=True)
class Phase:
    """A share of the run at one input size. scale: how many times the images, groups and prompts of full size.

    asks: False where the encoders alone train, by the auxiliary heads, and nothing is asked about the images.
    """

    share: float
    size: int
    scale: float = 1.0
    asks: bool = True

    def of(self, batch: BatchSettings) -> BatchSettings:
        """The settings of its batches: where nothing is asked, of as many classes as images, to tell them apart by."""
        scaled = batch.scaled(self.scale)
        return scaled if self.asks else replace(scaled, num_groups=1, num_points=1, num_boxes=1, images_per_class=1.0)


@dataclass(frozen=True)
class TrainingSettings:
    """One run. Its length is `minutes` of training time or `steps`, whichever is given."""

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    mode: str = "all"
    learning_rate: float = 1.2e-3
    warmup_steps: int = 80
    linear: bool = False  # the rate falls linearly to 0, else by half a cosine
    weight_decay: float = 0.01
    clip_norm: float = 2.0
    precision: str = "no"  # or `bf16`, or `auto` for what the device is faster in
    gradient_checkpointing: bool = False
    phases: tuple[Phase, ...] = (Phase(0.35, 64, 2.0), Phase(0.65, 128))
    batch: BatchSettings = field(default_factory=BatchSettings)
    num_parts: int = 0  # batches whose gradients make a step; 0: one
    max_seg_prompts: int = 44
    weights: LossWeights = SMALL_MODEL_WEIGHTS
    checkpoint_minutes: float = 3.0
    log_steps: int = 20
    num_workers: int = 1


@dataclass
class RunState:
    """Where a run stands: what the next step needs beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0  # of training, over all starts
    images: int = 0


class Trainer:
    """Builds or resumes a run in `folder`; `run` trains to its end and leaves a checkpoint in `folder/checkpoint`.

    Raises `InputError` for a folder of a run with other options; its length may be another.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        config: CalicoConfig,
        tokenizer: CalicoTokenizer,
        start: Path | None = None,
        grow: bool = False,
        data: MixedParts | Mixture | None = None,
        trunk_start: Path | None = None,
        watch: MixedParts | None = None,
    ) -> None:
        """start: a checkpoint folder to begin from, with its own sizes; or, with `grow`, inside those of `config`.

        data: an index to train on instead of drawings, for which there are no auxiliary heads; or a mixture of sources.
        watch: pictures never trained on, whose clicks and boxes are measured at each save, into the log.
        trunk_start: a checkpoint that `config` puts a trunk beside, instead of `start`.
        """
        self.folder = folder
        self.settings = settings
        self.config = config
        self.tokenizer = tokenizer
        self.data = data
        self.state = RunState()
        torch.manual_seed(settings.seed)
        # A batch without clicks, say, leaves weights without a gradient, on some processes or on all.
        several = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(kwargs_handlers=[several])
        folder.mkdir(parents=True, exist_ok=True)
        if trunk_start is not None and (folder / STATE).exists():
            model = build(config)
        elif trunk_start is not None:
            model = with_trunk(config, tokenizer, trunk_start)
        elif start is None:
            model = build(config)
        elif grow:
            model, self.tokenizer = load_grown(start, config)
        else:
            model, self.config, self.tokenizer = load_checkpoint(start)
        if data is not None:
            self.config = replace(self.config, data_version=config.data_version)
        if settings.mode == "paper":
            add_lora(model, self.config.lora, new_tokens=self.config.new_tokens)
        set_mode(model, settings.mode, self.config.fresh)
        if settings.gradient_checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
            model.llm.enable_input_require_grads()
        has_heads = not isinstance(data, MixedParts) and with_auxiliary(settings.weights, self.config)
        vocabulary = DRAWN if data is None or isinstance(data, MixedParts) else Vocabulary(data.classes, data.parts)
        heads = auxiliary_heads(self.config, vocabulary) if has_heads else None
        size = self.config.grounding_encoder.image_size
        model.to(self.accelerator.device)  # before it is asked where it is: attention is another on a GPU
        self.bare = TrainingStep(model, heads, settings.weights, size, settings.max_seg_prompts)
        trained = [p for p in self.bare.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
        )
        self.step_module, self.optimizer = self.accelerator.prepare(self.bare, optimizer)
        run = self._noted(start or trunk_start, grow)
        has_note, has_state = is_noted(folder, run), (folder / STATE).exists()
        if has_state:
            self.tokenizer = CalicoTokenizer.from_file(folder / TOKENIZER)  # the one that its weights were trained with
            self._resume()
        if self.accelerator.is_main_process:
            keep_log_until(folder / LOG, self.state.step if has_state else None)
            if not has_state:
                self.tokenizer.save(folder / TOKENIZER)
            if not has_note:
                if has_state:
                    logger.warning("%s: does not say how its run was started; taken to be with these options", folder)
                note_run(folder, run)
        self.watch = None
        if watch is not None:
            self.watch = Watch(watch, str(folder / TOKENIZER), ModelInputs.from_config(self.config))
        self.accelerator.wait_for_everyone()

    def _noted(self, start: Path | None, grow: bool) -> dict[str, Any]:
        """What makes this run another than others. start: by its weights, wherever the folder lies."""
        return {
            "start": None if start is None else weights_version(start),
            "grow": grow,
            "data": VERSION if self.data is None else self.data.version,
            "settings": {name: value for name, value in asdict(self.settings).items() if name not in MAY_CHANGE},
            "config": asdict(self.config),
        }

    @property
    def model(self) -> CalicoModel:
        return self.bare.model

    @property
    def progress(self) -> float:
        """0 to 1 of the whole run."""
        if self.settings.steps is not None:
            return min(1.0, self.state.step / max(1, self.settings.steps))
        return min(1.0, self.state.seconds / 60 / (self.settings.minutes or math.inf))

    def run(self, on_step: Callable[[RunState, dict[str, float], float], None] | None = None) -> RunState:
        """Trains until progress is 1. on_step: called after each step with the state, the terms and the progress."""
        last_saved = self.state.seconds
        window: list[dict[str, float]] = []
        while self.progress < 1:
            phase = self._phase()
            batches = self._batches(phase)
            self.bare.asks = phase.asks
            self.bare.max_seg_prompts = round(self.settings.max_seg_prompts * phase.scale)
            while self.progress < 1 and self._phase() == phase:
                started = time.monotonic()
                terms = self._one_step(batches)
                self.state.step += 1
                self.state.seconds = self._agreed(self.state.seconds + time.monotonic() - started)
                window.append(terms)
                if len(window) == self.settings.log_steps:
                    self._log(window, phase)
                    window = []
                if on_step:
                    on_step(self.state, terms, self.progress)
                if self.state.seconds - last_saved > 60 * self.settings.checkpoint_minutes:
                    self.save()
                    last_saved = self.state.seconds
        self.save()
        self._export()
        return self.state

    def _agreed(self, seconds: float) -> float:
        """The main process's, so that all change phase, rate and end at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        return float(broadcast(torch.tensor([seconds], device=self.accelerator.device)))

    def _one_step(self, batches: Iterator[TrainingBatch]) -> dict[str, float]:
        # Dropout and the choice of prompts depend on the step alone, so a resumed run repeats an unbroken one.
        torch.manual_seed(self.settings.seed * 1_000_003 + self.state.step)
        train_mode(self.model, self.settings.mode)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate()
        device, found = self.accelerator.device, []
        for _ in range(self._num_parts):
            batch = next(batches).to(device)
            # Not accelerate's: it has one precision for all runs of a process.
            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(self.settings.precision, device)):
                result = self.step_module(batch)
            self.accelerator.backward(result.loss / self._num_parts)
            found.append({"loss": float(result.loss.detach()), **result.terms})
            self.state.images += len(batch.part_maps) * self.accelerator.num_processes
        norm = self.accelerator.clip_grad_norm_(self.bare.parameters(), self.settings.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {self.state.step}: the gradient is not finite; lower --learning-rate or use --precision no, "
                "with another --out"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        names = dict.fromkeys(name for terms in found for name in terms)
        return {name: known_mean([terms[name] for terms in found if name in terms]) for name in names}

    @property
    def _num_parts(self) -> int:
        return max(1, self.settings.num_parts)

    def _rate(self) -> float:
        warm = min(1.0, (self.state.step + 1) / self.settings.warmup_steps)
        return warm * falling(self.progress, linear=self.settings.linear, least=0.01)

    def _phase(self) -> Phase:
        reached = 0.0
        for phase in self.settings.phases:
            reached += phase.share
            if self.progress < reached - 1e-9:
                return phase
        return self.settings.phases[-1]

    def _batches(self, phase: Phase) -> Iterator[TrainingBatch]:
        settings = phase.of(self.settings.batch)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        inputs = ModelInputs.from_config(self.config, phase.size)
        common = (str(self.folder / TOKENIZER), settings, inputs, self.settings.seed)
        data: torch.utils.data.Dataset[TrainingBatch]
        if self.data is None:
            data = DrawingBatches(*common)
        elif isinstance(self.data, Mixture):
            data = MixedBatches(self.data, *common)
        else:
            data = IndexBatches(self.data, *common)
        steps = range(self.state.step * self._num_parts * world + rank, 2**40, world)
        loader = DataLoader(data, batch_size=None, sampler=steps, num_workers=usable_workers(self.settings.num_workers))
        return iter(loader)

    def _log(self, window: list[dict[str, float]], phase: Phase) -> None:
        if not self.accelerator.is_main_process:
            return
        row = {**asdict(self.state), "size": phase.size, "rate": self._rate() * self.settings.learning_rate}
        add_to_log(self.folder / LOG, row, window)

    def save(self) -> None:
        """Training state, atomically: weights, optimizer and where the run stands; and the curves so far."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "weights": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "run": asdict(self.state),
        }
        with written_whole(self.folder / STATE) as temporary:
            torch.save(state, temporary)
        if self.watch is not None:
            add_to_log(self.folder / LOG, asdict(self.state), [self.watch.look(self.bare)])
        plot_curves(self.folder / LOG, self.folder / "curves.png")
        if self.settings.mode == "all":  # adapters would have to be merged, and training could not go on
            self._export()

    def _resume(self) -> None:
        try:
            state: dict[str, Any] = torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
            self.bare.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.state = RunState(**state["run"])
        except Exception as error:  # torch has many for a file that is cut off or holds more than tensors
            raise unusable_state(self.folder / STATE, error) from None
        logger.info("resumed %s at step %d, %.1f minutes", self.folder, self.state.step, self.state.seconds / 60)

    def _export(self) -> None:
        if self.accelerator.is_main_process:
            if self.settings.mode == "paper":
                merge_lora(self.model)
            save_checkpoint(self.folder / CHECKPOINT, self.model, self.config, self.tokenizer)


def with_auxiliary(weights: LossWeights, config: CalicoConfig) -> bool:
    return weights.auxiliary > 0 and "auxiliary" not in config.without and not config.is_full_size


def auxiliary_heads(config: CalicoConfig, vocabulary: Vocabulary = DRAWN) -> AuxiliaryHeads:
    return AuxiliaryHeads(
        config.global_encoder.hidden_size,
        config.qformer["hidden_size"],
        config.semantic_encoder.hidden_size,
        config.grounding_encoder.hidden_size,
        config.llm["hidden_size"],
        len(vocabulary.classes),
        len(vocabulary.parts),
        one_view=bool(config.trunk),
    )
