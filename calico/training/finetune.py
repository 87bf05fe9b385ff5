"""Finetuning on a snapshot: an adapter over a checkpoint, with base data replayed against forgetting.

`finetune` trains and leaves the adapter in OUT/version; who wants it compared and registered too calls
`calico.training.challenge`. The same call resumes a run that was killed.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calico.errors import CalicoError, CheckpointError, InputError
from calico.fingerprint import EMBEDDED, is_adapter, read_card, weights_version
from calico.language.tokenizer import CalicoTokenizer
from calico.model.adapter import (
    AdapterCard,
    attach,
    choose_spec,
    load_over_base,
    load_trained,
    save_adapter,
    trained,
)
from calico.model.calico import CalicoModel
from calico.model.checkpoint import load_checkpoint, write_text
from calico.model.config import CalicoConfig
from calico.model.modes import train_mode
from calico.model.precision import check_bits, quantise_llm, trains_in_bf16
from calico.snapshots.splits import TRAIN, VALIDATION
from calico.snapshots.store import Snapshot
from calico.training.batches import BatchSettings, TrainingBatch
from calico.training.corrections import CorrectedGroup, CorrectionBatches, Replay, drawings, read_groups
from calico.training.curves import plot_curves
from calico.training.losses import SMALL_MODEL_WEIGHTS, LossWeights
from calico.training.preflight import tell_memory
from calico.training.step import TrainingStep
from calico.versions.registry import CARD

logger = logging.getLogger(__name__)
STATE, LOG, RUN, VERSION_FOLDER, TRAINING = "state.pt", "log.jsonl", "run.json", "version", "training.json"
BATCH = BatchSettings(num_images=16, num_groups=18, num_points=8, num_boxes=6)


@dataclass(frozen=True)
class FinetuneSettings:
    """One finetune. Its length is `minutes` of training time, or `steps` where they are given.

    learning_rate: of LoRA. whole_share: of it, for what is held as a whole: it starts trained, LoRA starts at zero.
    bits, gradient_checkpointing: less memory, more time. On a GPU bits bring bfloat16 along.
    accepted_as_is: weight of predictions that were submitted untouched. num_validations: how often in the run the
    validation split is looked at. patience: stop after so many looks without a better one.
    """

    minutes: float = 8.0
    steps: int | None = None
    seed: int = 0
    learning_rate: float = 1e-3
    whole_share: float = 0.25
    warmup_steps: int = 10
    clip_norm: float = 1.0
    precision: str = "auto"  # `bf16` where the device is faster in it; or `bf16` or `no` in any case
    bits: int | None = None  # of the frozen language model's linears: 8, or 4 on a GPU
    gradient_checkpointing: bool = False
    batch: BatchSettings = BATCH
    max_seg_prompts: int = 28
    weights: LossWeights = field(default_factory=lambda: replace(SMALL_MODEL_WEIGHTS, auxiliary=0.0))
    accepted_as_is: float = 0.25
    num_validations: int = 10
    patience: int = 4
    max_validation_groups: int = 24
    save_seconds: float = 20.0
    log_steps: int = 5


@dataclass
class FinetuneState:
    """Where a run stands: what the next step needs beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0  # of training and validation, over all starts
    num_parts: int = 1  # micro-batches a step; doubled when memory ran out
    num_looks: int = 0
    first_validation: float | None = None
    best_validation: float | None = None
    best_step: int = 0
    looks_since_best: int = 0
    stopped: str = ""  # "", "length" or "early"


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
    replay: Replay | None = None,
    train_ids: Collection[str] | None = None,
    finishers: Sequence[Finisher] = (),
) -> FinetuneResult:
    """Trains an adapter on the snapshot's training split; its validation split says when to stop.

    start: a checkpoint's folder, or an adapter's, whose weights are gone on with; None: the embedded checkpoint.
    base: the checkpoint of that adapter, where it is not the embedded one. replay: base data; None: drawings.
    train_ids: other groups than the training split, without validation. on_step: state, loss terms, progress 0 to 1.

    Raises `InputError` for a snapshot without training groups or an `out` of another run, else `CheckpointError`.
    """
    run = Finetune(snapshot, start, out, settings or FinetuneSettings(), base, replay, train_ids)
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
        replay: Replay | None = None,
        train_ids: Collection[str] | None = None,
    ) -> None:
        if settings.minutes <= 0 or (settings.steps is not None and settings.steps < 1):
            raise InputError(f"a finetune takes minutes or steps above 0, got {settings.minutes} and {settings.steps}")
        self.snapshot, self.out, self.settings = snapshot, Path(out), settings
        self.state = FinetuneState()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        self.model, self.config, self.tokenizer, self.card = open_start(start, base, self.device, settings.bits)
        if settings.gradient_checkpointing:
            self.model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        self.seen = seen_groups(start)
        self.trained = trained(self.model)
        self.groups, self.validation = self._read(train_ids)
        if replay is None:
            if not self.config.data_version.startswith("drawings"):
                raise InputError(f"{start}: trained on {self.config.data_version or 'unknown data'}; pass its replay")
            replay = drawings
        size = self.config.grounding_encoder.image_size
        self.batches = CorrectionBatches(
            self.groups, replay, self.tokenizer, settings.batch, self.config.num_queries, size, settings.seed
        )
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
        self.best: dict[str, Tensor] = {}
        self.out.mkdir(parents=True, exist_ok=True)
        self._claim({"start": self.card.base if start is None else str(start), "train_ids": train_ids})
        self._resume()
        if self.progress < 1:
            batch = self.batches.batch(self.state.step, 0, self.state.num_parts)
            tell_memory(
                self.model,
                self.config,
                batch,
                settings.max_seg_prompts,
                dtype=torch.bfloat16 if self._is_bf16 else torch.float32,
                checkpointing=settings.gradient_checkpointing,
            )

    def _read(self, train_ids: Collection[str] | None) -> tuple[list[CorrectedGroup], list[CorrectedGroup]]:
        by_split: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
        for record in self.snapshot.records():
            by_split.setdefault(record["split"], []).append(record["id"])
        if train_ids is not None:
            by_split = {TRAIN: list(train_ids), VALIDATION: []}
        size, accepted = self.config.grounding_encoder.image_size, self.settings.accepted_as_is
        groups = read_groups(self.snapshot, by_split[TRAIN], size, accepted_as_is=accepted)
        if not groups:
            splits = ", ".join(f"{len(ids)} {name}" for name, ids in sorted(by_split.items()))
            raise InputError(
                f"{self.snapshot.folder}: no groups to train on ({splits}; accepted as is count {accepted}); "
                "correct more groups"
            )
        chosen = by_split[VALIDATION][: self.settings.max_validation_groups]
        validation = read_groups(self.snapshot, chosen, size, accepted_as_is=accepted)
        if not validation and train_ids is None:
            logger.warning("no validation groups: training to the end, the last weights count")
        return groups, validation

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """0 to 1 of the run."""
        if self.state.stopped:
            return 1.0
        if self.settings.steps is not None:
            return min(1.0, self.state.step / self.settings.steps)
        return min(1.0, self.state.seconds / 60 / self.settings.minutes)

    def train(self, on_step: OnStep | None = None) -> FinetuneState:
        """To the end of the run, or until the validation split says that it gets no better."""
        if not self.state.stopped and not self.state.num_looks:
            self._look()
        saved_at, window = self.state.seconds, []
        while self.progress < 1:
            started = time.monotonic()
            terms = self._one_step()
            self.state.step += 1
            self.state.seconds += time.monotonic() - started
            window.append(terms)
            if len(window) >= self.settings.log_steps:
                self._log(window)
                window = []
            if self.progress >= self.state.num_looks / self.settings.num_validations:
                self._look()
            if on_step:
                on_step(self.state, terms, self.progress)
            if self.progress >= 1 and not self.state.stopped:
                self.state.stopped = "length"
            if self.state.stopped or self.state.seconds - saved_at > self.settings.save_seconds:
                self.save()
                saved_at = self.state.seconds
        return self.state

    def _one_step(self) -> dict[str, float]:
        """Repeated with smaller micro-batches where memory runs out. Depends on the step alone, so resumes exactly."""
        while True:
            try:
                return self._tried_step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)

    def _tried_step(self) -> dict[str, float]:
        torch.manual_seed(self.settings.seed * 1_000_003 + self.state.step)
        train_mode(self.model, "paper")
        rate = self.settings.learning_rate * self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad()
        sums: dict[str, float] = {}
        num_parts = self.state.num_parts
        for part in range(num_parts):
            result = self._loss(self.batches.batch(self.state.step, part, num_parts))
            (result.loss / num_parts).backward()
            for name, value in {"loss": float(result.loss.detach()), **result.terms}.items():
                sums[name] = sums.get(name, 0.0) + value / num_parts
        norm = torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.settings.clip_norm)
        if not torch.isfinite(norm):
            raise CalicoError(f"step {self.state.step}: the gradient is not finite; lower the learning rate")
        self.optimizer.step()
        return {**sums, "rate": rate}

    @property
    def _is_bf16(self) -> bool:
        if self.settings.precision == "auto":
            return trains_in_bf16(self.device)
        return self.settings.precision == "bf16" or (self.settings.bits is not None and self.device.type == "cuda")

    def _loss(self, batch: TrainingBatch) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_bf16):
            return self.step_module(batch.to(self.device))

    def _halve(self, error: BaseException) -> None:
        self.optimizer.zero_grad()
        if self.settings.batch.num_images // (2 * self.state.num_parts) < 2:
            raise CalicoError(f"out of memory with two images at a time ({str(error).splitlines()[0]})") from error
        self.state.num_parts *= 2
        images = self.settings.batch.num_images // self.state.num_parts
        logger.warning("out of memory: the micro-batch is halved to %d images", images)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _rate(self) -> float:
        warm = min(1.0, (self.state.step + 1) / self.settings.warmup_steps)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))

    @torch.no_grad()
    def _look(self) -> None:
        """The validation split, with as many base images: keeps the weights that do best on both."""
        self.state.num_looks += 1
        if not self.validation:
            return
        started = time.monotonic()
        self.model.eval()
        losses: list[float] = []
        while True:
            try:
                losses = [float(self._loss(batch).loss) for batch in self._validation_batches()]
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
        loss, state = sum(losses) / len(losses), self.state
        state.seconds += time.monotonic() - started
        if state.first_validation is None:
            state.first_validation = loss
        if state.best_validation is None or loss < state.best_validation:
            state.best_validation, state.best_step, state.looks_since_best = loss, state.step, 0
            self.best = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        else:
            state.looks_since_best += 1
            if state.looks_since_best >= self.settings.patience:
                state.stopped = "early"
        self._write_log({"validation": loss})

    def _validation_batches(self) -> Iterator[TrainingBatch]:
        wanted = max(2, self.settings.batch.num_images // self.state.num_parts) / 2
        chunk: list[CorrectedGroup] = []
        number = 0
        for group in [*self.validation, None]:
            if chunk and (group is None or sum(len(g.images) for g in (*chunk, group)) > wanted):
                torch.manual_seed(number)  # which masks are looked at
                yield self.batches.fixed(chunk, number)
                chunk, number = [], number + 1
            if group is not None:
                chunk.append(group)

    # -- files --------------------------------------------------------------------------------------------------------

    def _claim(self, start: dict[str, Any]) -> None:
        """A folder holds one run: another one's is refused."""
        ids = start.pop("train_ids")
        run = {
            **start,
            "base": self.card.base,
            "snapshot": self.snapshot.content_sha256,
            "groups": None if ids is None else sorted(ids),
            "settings": asdict(self.settings),
        }
        text, path = json.dumps(run, indent=2, ensure_ascii=False) + "\n", self.out / RUN
        if not path.exists():
            if any(self.out.glob("*.pt")):
                raise InputError(f"{self.out}: holds another kind of run; use another --out")
            write_text(path, text)
        elif path.read_text(encoding="utf-8") != text:
            before = read_card(path)
            differs = [name for name in run if json.loads(json.dumps(run[name])) != before.get(name)]
            raise InputError(
                f"{self.out}: holds a run with other {', '.join(differs) or 'contents'}; use another --out, or "
                "the same options to resume it"
            )

    def _log(self, window: list[dict[str, float]]) -> None:
        names = sorted({name for terms in window for name in terms})
        self._write_log({n: sum(t[n] for t in window if n in t) / sum(n in t for t in window) for n in names})

    def _write_log(self, values: dict[str, float]) -> None:
        row = {"step": self.state.step, "seconds": self.state.seconds, "micro_batches": self.state.num_parts, **values}
        with (self.out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")

    def save(self) -> None:
        """Training state, atomically."""
        state = {
            "weights": {name: p.detach() for name, p in self.trained.items()},
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "run": asdict(self.state),
        }
        temporary = self.out / (STATE + ".new")
        torch.save(state, temporary)
        temporary.replace(self.out / STATE)

    def _resume(self) -> None:
        path = self.out / STATE
        if not path.exists():
            (self.out / LOG).unlink(missing_ok=True)
            return
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            load_trained(self.model, state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best, self.state = state["best"], FinetuneState(**state["run"])
        except (RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
            raise CheckpointError(
                f"{path}: not the state of this run ({str(error).splitlines()[0]}); use another --out"
            ) from None
        lines = (self.out / LOG).read_text(encoding="utf-8").splitlines() if (self.out / LOG).exists() else []
        rows = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.state.step]
        write_text(self.out / LOG, "".join(row + "\n" for row in rows))
        logger.info("resumed %s at step %d", self.out, self.state.step)

    def finish(self, finishers: Sequence[Finisher] = ()) -> FinetuneResult:
        """The adapter in OUT/version, with the best weights: adapter.safetensors, adapter.json, training.json and
        curves.png. training.json holds the ids of all groups that these weights have seen."""
        if self.best:
            load_trained(self.model, self.best)
        folder = self.out / VERSION_FOLDER
        save_adapter(folder, self.card, self.trained)
        seen = sorted(self.seen | {group.id for group in (*self.groups, *self.validation)})
        write_text(folder / TRAINING, json.dumps({"groups": seen}, ensure_ascii=False, indent=1) + "\n")
        plot_curves(self.out / LOG, folder / "curves.png")
        for finisher in finishers:
            finisher(folder, self.model, self.config, self.tokenizer, self.groups)
        return FinetuneResult(
            folder,
            self.card.base,
            self.config.preset,
            self.state,
            {TRAIN: len(self.groups), VALIDATION: len(self.validation)},
            sum(p.numel() for p in self.trained.values()),
            sum(path.stat().st_size for path in folder.glob("adapter.*")),
        )


def open_start(
    start: Path | None, base: Path | None, device: torch.device, bits: int | None = None
) -> tuple[CalicoModel, CalicoConfig, CalicoTokenizer, AdapterCard]:
    """The model with an adapter attached: the one in `start`, or a fresh one on the checkpoint there.

    bits: the adapter, in float32, over a quantised language model, which a GPU never holds whole. Raises `InputError`
    where the device cannot.
    """
    check_bits(bits, device)
    folder = EMBEDDED if start is None else Path(start)
    places: dict[str, Any] = {} if bits is None else {"dtype": None, "llm_device": "cpu"}
    if is_adapter(folder):
        model, config, tokenizer, card = load_over_base(folder, base, device, **places)
    else:
        model, config, tokenizer = load_checkpoint(folder, device, **places)
        spec = choose_spec(model, config)
        attach(model, spec)
        base_id = str(read_card(folder / CARD, "id")["id"]) if (folder / CARD).is_file() else None
        card = AdapterCard(config.preset, weights_version(folder), spec, base_id)
    if bits is not None:
        quantise_llm(model, bits, device)
        for parameter in trained(model).values():
            parameter.data = parameter.data.float()
    return model, config, tokenizer, card


def seen_groups(start: Path | None) -> set[str]:
    """Ids of the groups that a version's weights were trained on or chosen by; none for a checkpoint."""
    path = None if start is None else Path(start) / TRAINING
    return set(read_card(path, "groups")["groups"]) if path is not None and path.is_file() else set()


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of the host: torch's CPU allocator raises a RuntimeError with only its text to know it by."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
