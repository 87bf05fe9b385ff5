"""A training run: steps over batches until its time is up, exact resume, files to look at, one process or several.

A run has a set of weights, batches by stage, one schedule and one folder. Who makes one says which weights train and
where the batches come from: `calico.training.trainer` a whole model's, `calico.training.finetune` an adapter's.

Under `accelerate launch` each process takes batches of its own and the gradients are averaged; the main one tells the
time, looks at the validation batches and writes all files. Out of memory, all halve their micro-batches. A resumed run
repeats an unbroken one to the bit with one thread; several threads add up in an order of their own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from calico.errors import CalicoError
from calico.model.modes import train_mode
from calico.model.out_of_memory import give_back_memory, is_out_of_memory
from calico.model.precision import uses_bf16
from calico.training.batches import TrainingBatch
from calico.training.kept_seen import KeptSeen
from calico.training.prefetch import Prefetcher
from calico.training.processes import OutOfMemoryTogether, Processes
from calico.training.retention import Anchor
from calico.training.run_folder import RunFolder, RunState, known_mean
from calico.training.run_settings import RunSettings
from calico.training.schedule import rate_share
from calico.training.step import StepResult, TrainingStep

logger = logging.getLogger(__name__)
MAX_LOOK_SHARE = 0.2  # of a run's time, for looks at the validation batches before its end

OnStep = Callable[[RunState, dict[str, float], float], None]  # the state, the step's terms, progress 0 to 1
S = TypeVar("S", bound=RunSettings)


@dataclass(frozen=True)
class Stage:
    """A share of the run with batches of its own.

    batch: (number, part, num_parts) -> micro-batch, a function of them alone. size: of its images, for the log.
    asks: False where the encoders alone train, by the auxiliary heads.
    """

    share: float
    batch: Callable[[int, int, int], TrainingBatch]
    size: int
    max_seg_prompts: int
    asks: bool = True


class Run(Generic[S]):
    """Opening it loads what its folder holds; `train` goes on to the end."""

    def __init__(
        self,
        folder: Path,
        note: Mapping[str, Any],
        settings: S,
        step_module: TrainingStep,
        optimizer: torch.optim.Optimizer,
        weights: Mapping[str, Tensor],
        stages: Sequence[Stage],
        processes: Processes,
        *,
        mode: str,
        anchor: Anchor | None = None,
        validation: Callable[[int], Iterator[TrainingBatch]] | None = None,
    ) -> None:
        """note: what makes this run another than others, JSON-ready. weights: what is saved, with buffers that training
        changes; those that train are the optimizer's. A group of the optimizer may have a `share` of the rate.

        mode: as `train_mode` takes it. anchor: what base data is held to. validation: num_parts -> batches, always the
        same; None: the run trains to its end, and the last weights count.

        Raises `InputError` for a folder of another run, `CheckpointError` for a state that is damaged.
        """
        self.settings, self.step_module, self.optimizer = settings, step_module, optimizer
        self.weights, self.stages, self.processes = dict(weights), tuple(stages), processes
        self.mode, self.anchor, self.validation = mode, anchor, validation
        self.model, self.device = step_module.model, processes.device
        self.files = RunFolder(folder, note)
        most = settings.batch.num_images // 2  # a micro-batch has a group of two at least
        self.state = RunState(num_parts=max(1, min(settings.num_parts, most)))
        self.best: dict[str, Tensor] = {}
        self._kept_seen = KeptSeen()
        self._stage: Stage | None = None
        self._batches: Prefetcher | None = None
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._buffers = [tensor for tensor in self.weights.values() if not isinstance(tensor, torch.nn.Parameter)]
        self._open()

    def _open(self) -> None:
        self.processes.on_main(self.files.check)
        resumed = self.files.resume(self.weights, self.optimizer, self.state)
        if resumed is not None:
            self.best, self.state = resumed
        self.processes.on_main(lambda: self.files.begin(None if resumed is None else self.state.step))
        self.processes.share(self.weights.values())

    @property
    def progress(self) -> float:
        """0 to 1 of the run."""
        if self.state.stopped == "early":
            return 1.0
        if self.settings.steps is not None:
            return min(1.0, self.state.step / self.settings.steps) if self.settings.steps else 1.0
        if self.settings.cpu_minutes is not None:
            return min(1.0, self.state.cpu_seconds / 60 / self.settings.cpu_minutes)
        return min(1.0, self.state.seconds / 60 / (self.settings.minutes or math.inf))

    def train(self, on_step: OnStep | None = None) -> RunState:
        """To the end of the run, or until the validation batches say that it gets no better."""
        if self.progress < 1 and not self.state.num_looks:
            self._look()
        saved_at, window = self.state.seconds, []
        while self.progress < 1:
            stage = self._enter_stage()
            started, cpu_started = time.monotonic(), time.process_time()
            terms = self._one_step()
            self.state.step += 1
            self.state.seconds += time.monotonic() - started
            self.state.cpu_seconds += time.process_time() - cpu_started
            self._agree()
            window.append(terms)
            if len(window) >= self.settings.log_steps:
                if self.processes.is_main:
                    self.files.log(self.state, window, size=stage.size)
                window = []
            if self._is_time_to_look():
                self._look()
            if on_step:
                on_step(self.state, terms, self.progress)
            if self.progress < 1:
                self.state.stopped = ""
            elif not self.state.stopped:
                self.state.stopped = "length"
            if self.state.stopped or self.state.seconds - saved_at > self.settings.save_seconds:
                self.save()
                saved_at = self.state.seconds
        if self._batches is not None:
            self._batches.stop()
        return self.state

    def _enter_stage(self) -> Stage:
        """The stage that the run has come to."""
        reached, current = 0.0, self.stages[-1]
        for stage in self.stages:
            reached += stage.share
            if self.progress < reached - 1e-9:
                current = stage
                break
        if current is not self._stage:
            if self._batches is not None:
                self._batches.stop()
            self._batches = Prefetcher(current.batch, self.settings.num_workers, self.processes.num)
            self._stage = current
            self.step_module.asks, self.step_module.max_seg_prompts = current.asks, current.max_seg_prompts
        return current

    def _agree(self) -> None:
        """All stand where the main process does: they change stage and rate, look and end at the same step."""
        if self.processes.num > 1:
            self.state = RunState(**self.processes.from_main(asdict(self.state)))

    # -- a step -------------------------------------------------------------------------------------------------------

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
                lacking = error.with_traceback(None)  # which holds what did not fit
            self._halve(lacking)

    def _tried_step(self) -> dict[str, float]:
        stage = self._enter_stage()
        assert self._batches is not None
        self.step_module.max_seg_prompts = self._masks_at_once(stage)
        torch.manual_seed(self.settings.seed * 1_000_003 + self.state.step)
        train_mode(self.model, self.mode)
        rate = self._set_rate()
        self.optimizer.zero_grad()
        values: dict[str, list[float]] = {}
        num_images, num_parts = 0, self.state.num_parts
        number = self.state.step * self.processes.num + self.processes.index
        with self.processes.agreeing():
            for part in range(num_parts):
                batch = self._batches(number, part, num_parts)
                result = self._loss(batch)
                (result.loss / num_parts).backward()
                num_images += len(batch.part_maps)
                for name, value in {"loss": float(result.loss.detach()), **result.terms}.items():
                    values.setdefault(name, []).append(value)
        self.processes.average(self._parameters)
        self.processes.share(self._buffers)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.clip_norm)
        if not torch.isfinite(norm):
            raise CalicoError(
                f"step {self.state.step}: the gradient is not finite; lower the learning rate or use precision `no`, "
                "with another --out"
            )
        self.optimizer.step()
        self.state.images += num_images * self.processes.num
        return {**{name: known_mean(numbers) for name, numbers in values.items()}, "rate": rate}

    def _masks_at_once(self, stage: Stage) -> int:
        """Of a micro-batch: as many in a step as asked for, in however many parts it has to be taken."""
        return max(1, stage.max_seg_prompts * max(1, self.settings.num_parts) // self.state.num_parts)

    def _set_rate(self) -> float:
        settings = self.settings
        share = rate_share(self.state.step, self.progress, warmup_steps=settings.warmup_steps, linear=settings.linear)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share * group.get("share", 1.0)
        return settings.learning_rate * share

    @property
    def _is_bf16(self) -> bool:
        return uses_bf16(self.settings.precision, self.device)

    def _loss(self, batch: TrainingBatch, name: Hashable = None) -> StepResult:
        """Frozen encoders see each image once, for the anchor and the training alike.

        name: of a batch that comes again as it is; what they made of it is kept.
        """
        batch, taught, seen = batch.to(self.device), None, None

        def autocast() -> torch.autocast:
            return torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_bf16)

        if self.model.has_frozen_encoders:
            with torch.no_grad(), autocast():
                if name is None:
                    seen = self.step_module.see(batch)
                else:
                    seen = self._kept_seen(name, lambda: self.step_module.see(batch), self.device)
        else:
            with autocast():
                batch = replace(batch, pixels=self.step_module.look(batch))
        if self.anchor is not None:
            with autocast():
                taught = self.anchor.answer_logits(batch, seen)
        with autocast():
            result: StepResult = self.step_module(batch, taught, seen)
        return result

    def _halve(self, error: BaseException) -> None:
        self.optimizer.zero_grad()
        if self.settings.batch.num_images // (2 * self.state.num_parts) < 2:
            raise CalicoError(f"out of memory with two images at a time ({str(error).splitlines()[0]})") from error
        self.state.num_parts *= 2
        images = self.settings.batch.num_images // self.state.num_parts
        logger.warning("out of memory: the micro-batch is halved to %d images", images)
        give_back_memory()

    # -- validation ---------------------------------------------------------------------------------------------------

    def _is_time_to_look(self) -> bool:
        """A short run by time looks less often, or it would do little else."""
        state, settings = self.state, self.settings
        if self.validation is None:
            return False
        has_time = settings.steps is not None or state.look_seconds <= MAX_LOOK_SHARE * state.seconds
        return self.progress >= 1 or (has_time and self.progress >= state.num_looks / settings.num_validations)

    def _look(self) -> None:
        """At the validation batches: keeps the weights that do best on them."""
        if self.validation is not None:
            self.state.num_looks += 1
            self.processes.on_main(self._validate)
            self._agree()

    @torch.no_grad()
    def _validate(self) -> None:
        assert self.validation is not None
        started, cpu_started, state = time.monotonic(), time.process_time(), self.state
        self.model.eval()
        losses: list[float] = []
        while True:
            try:
                batches = enumerate(self.validation(state.num_parts))
                losses = [float(self._loss(batch, (state.num_parts, number)).loss) for number, batch in batches]
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                lacking = error.with_traceback(None)
            self._halve(lacking)
        loss = sum(losses) / len(losses)
        duration = time.monotonic() - started
        state.seconds += duration
        state.cpu_seconds += time.process_time() - cpu_started
        state.look_seconds += duration
        if state.looked(loss, self.settings.patience):
            self.best = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        self.files.log(state, [{"validation": loss}])

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """What the next start resumes from."""
        if self.processes.is_main:
            self.files.save(self.weights, self.best, self.optimizer, self.state)
