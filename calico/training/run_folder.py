"""A run's folder: which run it holds, where that stands, and its log."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calico.errors import CheckpointError, InputError
from calico.files import write_text, written_whole

logger = logging.getLogger(__name__)
STATE, LOG, RUN = "state.pt", "log.jsonl", "run.json"
FORMAT = 2  # 1, which the note does not say: finetunes and whole models each had one of their own


@dataclass
class RunState:
    """Where a run stands: what the next step needs beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0  # of training and validation, over all starts
    cpu_seconds: float = 0.0  # of it, of this process's own
    images: int = 0
    num_parts: int = 1  # micro-batches a step; doubled when memory ran out
    num_looks: int = 0
    look_seconds: float = 0.0  # of `seconds`
    first_validation: float | None = None
    best_validation: float | None = None
    best_step: int = 0
    looks_since_best: int = 0
    stopped: str = ""  # "", "length" or "early"

    def looked(self, loss: float, patience: int) -> bool:
        """Notes a validation loss; whether it is the best. Stops after `patience` looks without a better one."""
        if self.first_validation is None:
            self.first_validation = loss
        if self.best_validation is None or loss < self.best_validation:
            self.best_validation, self.best_step, self.looks_since_best = loss, self.step, 0
            return True
        self.looks_since_best += 1
        if self.looks_since_best >= patience:
            self.stopped = "early"
        return False


class RunFolder:
    """One run's files. Several processes may read it, one writes. note: which run it is, JSON-ready."""

    def __init__(self, path: Path, note: Mapping[str, Any]) -> None:
        self.path, self.note = Path(path), {"format": FORMAT, **note}

    def check(self) -> None:
        """Raises `InputError` where the folder holds another run, `CheckpointError` where it cannot be read."""
        is_noted(self.path, self.note)

    def begin(self, step: int | None) -> None:
        """Writes down which run this is. step: the one that `resume` gave; None: it starts.

        What a killed run logged after it was saved last is done again.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        before = _read_note(self.path)
        if before != json.loads(json.dumps(self.note)):
            if before is None and step is not None:
                logger.warning("%s: does not say how its run was started; taken to be with these options", self.path)
            if before is not None and "format" not in before:
                logger.info("%s: a run of an earlier version goes on; from now on that version cannot", self.path)
            note_run(self.path, self.note)
        keep_log_until(self.path / LOG, step)

    def save(
        self,
        weights: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        state: RunState,
    ) -> None:
        """What `resume` needs, atomically. best: the weights that validated best, if any did."""
        content = {
            "weights": {name: tensor.detach() for name, tensor in weights.items()},
            "best": dict(best),
            "optimizer": optimizer.state_dict(),
            "run": asdict(state),
        }
        with written_whole(self.path / STATE) as temporary:
            torch.save(content, temporary)

    def resume(
        self, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, fresh: RunState
    ) -> tuple[dict[str, Tensor], RunState] | None:
        """The best weights so far and where the run stands; weights and optimizer are set to what was saved last.

        fresh: the state of a run that starts, for what an earlier version did not save. Raises `CheckpointError` for a
        state that is damaged or another run's.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if lacking := weights.keys() ^ saved["weights"].keys():
                raise ValueError(f"{len(lacking)} other weights, first {min(lacking)}")
            with torch.no_grad():
                for name, tensor in weights.items():
                    if tensor.shape != saved["weights"][name].shape:
                        raise ValueError(f"{name} has shape {tuple(saved['weights'][name].shape)}")
                    tensor.copy_(saved["weights"][name])
            optimizer.load_state_dict(saved["optimizer"])
            best, state = saved.get("best", {}), replace(fresh, **saved["run"])
        except Exception as error:  # torch has many for a file that is cut off or holds more than tensors
            raise unusable_state(path, error) from None
        logger.info("resumed %s at step %d, %.1f minutes", self.path, state.step, state.seconds / 60)
        return best, state

    def log(self, state: RunState, window: Sequence[Mapping[str, float]], **more: float) -> None:
        """A line of the means over some steps' values."""
        row = {"step": state.step, "seconds": state.seconds, "images": state.images, "micro_batches": state.num_parts}
        add_to_log(self.path / LOG, {**row, **more}, window)


def is_noted(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the folder says which run it holds. Raises `InputError` where that is another than this one, and
    `CheckpointError` where it cannot be read."""
    before = _read_note(folder)
    if before is None:
        return False
    settings = json.loads(json.dumps(run))
    is_old = before.pop("format", 1) != settings.pop("format", 1)
    by = " of another version of calico" if is_old else ""
    if before.keys() != settings.keys():
        raise InputError(f"{folder}: holds another kind of run; use another --out")
    if not _is_same(before, settings):
        names = ", ".join(_differing(before, settings)) or "contents"
        raise InputError(
            f"{folder}: holds a run{by} with other {names}; use another --out, or the same options to resume it"
        )
    return True


def _read_note(folder: Path) -> dict[str, Any] | None:
    path = folder / RUN
    if not path.exists():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); use another --out") from None
    if not isinstance(note, dict):
        raise InputError(f"{folder}: holds another kind of run; use another --out")
    return note


def note_run(folder: Path, run: Mapping[str, Any]) -> None:
    """What `is_noted` reads."""
    write_text(folder / RUN, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def _is_same(before: Any, settings: Any) -> bool:
    """A setting that the note does not know came later than the run: nothing (false, 0, empty) is what it did then."""
    if isinstance(before, dict) and isinstance(settings, dict):
        return before.keys() <= settings.keys() and all(
            _is_same(before[name], value) if name in before else not value for name, value in settings.items()
        )
    return bool(before == settings)


def _differing(before: Any, settings: Any, name: str = "") -> list[str]:
    """Names of what differs, as `settings.batch.num_images`."""
    if _is_same(before, settings):
        return []
    if not (isinstance(before, dict) and isinstance(settings, dict)):
        return [name]
    prefix = f"{name}." if name else ""
    keys = [key for key in dict.fromkeys([*settings, *before]) if key in before or settings[key]]
    return [inner for key in keys for inner in _differing(before.get(key), settings.get(key), f"{prefix}{key}")]


def unusable_state(path: Path, error: Exception) -> CheckpointError:
    """For a state that is damaged or another run's, by what came of reading it."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path}: not the state of this run ({reason}); use another --out")


def add_to_log(log: Path, row: Mapping[str, Any], window: Sequence[Mapping[str, float]]) -> None:
    """A line: `row`, and of each name the mean over the steps that have it as a number; NaN is none."""
    names = sorted({name for values in window for name in values})
    means = {name: known_mean([values[name] for values in window if name in values]) for name in names}
    row = {**row, **{name: mean for name, mean in means.items() if not math.isnan(mean)}}
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")


def known_mean(values: Sequence[float]) -> float:
    """Of what is not NaN, as the masks' terms of a batch without a [SEG] are; NaN where nothing else is there."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def keep_log_until(log: Path, step: int | None) -> None:
    """Forgets the lines of later steps, and one that was cut off while it was written; None: all."""
    if step is None:
        log.unlink(missing_ok=True)
    elif log.exists():
        lines = log.read_text(encoding="utf-8").splitlines()
        rows = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_text(log, "".join(row + "\n" for row in rows))
