"""A run's folder: what run it holds, where that stands, and its log."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calico.errors import CheckpointError, InputError
from calico.files import write_text, written_whole

logger = logging.getLogger(__name__)
STATE, LOG, RUN = "state.pt", "log.jsonl", "run.json"
Trained = Mapping[str, torch.nn.Parameter]  # what the adapter holds, by name


@dataclass
class FinetuneState:
    """Where a run stands: what the next step needs beside weights and optimizer."""

    step: int = 0
    seconds: float = 0.0  # of training and validation, over all starts
    cpu_seconds: float = 0.0  # of it, of this process's own
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
    """One run's files. Several processes may read it, one writes."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def claim(self, run: dict[str, Any]) -> None:
        """A folder holds one run, JSON-ready options and all: another one's is refused with `InputError`."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not is_noted(self.path, run):
            if any(self.path.glob("*.pt")):
                raise InputError(f"{self.path}: holds another kind of run; use another --out")
            note_run(self.path, run)

    def save(
        self, trained: Trained, best: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: FinetuneState
    ) -> None:
        """What `resume` needs, atomically. best: the weights that validated best, if any did."""
        weights = {name: parameter.detach() for name, parameter in trained.items()}
        content = {"weights": weights, "best": best, "optimizer": optimizer.state_dict(), "run": asdict(state)}
        with written_whole(self.path / STATE) as temporary:
            torch.save(content, temporary)

    def resume(
        self, trained: Trained, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> tuple[dict[str, Tensor], FinetuneState] | None:
        """The best weights so far and where the run stands; weights and optimizer are set to what was saved last.

        Raises `CheckpointError` for a state that is damaged or another run's.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(saved["weights"][name])
            optimizer.load_state_dict(saved["optimizer"])
            best, state = saved["best"], FinetuneState(**saved["run"])
        except Exception as error:  # torch has many for a file that is cut off or holds more than tensors
            raise unusable_state(path, error) from None
        logger.info("resumed %s at step %d", self.path, state.step)
        return best, state

    def log(self, state: FinetuneState, window: Sequence[Mapping[str, float]]) -> None:
        """A line of the means over some steps' values."""
        row = {"step": state.step, "seconds": state.seconds, "micro_batches": state.num_parts}
        add_to_log(self.path / LOG, row, window)

    def keep_log_until(self, step: int | None) -> None:
        """What a killed run did after it was saved last is done again; None: all of it."""
        keep_log_until(self.path / LOG, step)


def is_noted(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the folder says which run it holds. Raises `InputError` where that is another than this one, and
    `CheckpointError` where it cannot be read."""
    path = folder / RUN
    if not path.exists():
        return False
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); use another --out") from None
    asked = json.loads(json.dumps(run))
    if not isinstance(before, dict) or before.keys() != asked.keys():
        raise InputError(f"{folder}: holds another kind of run; use another --out")
    if not _is_same(before, asked):
        raise InputError(
            f"{folder}: holds a run with other {', '.join(_differing(before, asked)) or 'contents'}; use another "
            "--out, or the same options to resume it"
        )
    return True


def note_run(folder: Path, run: Mapping[str, Any]) -> None:
    """What `is_noted` reads."""
    write_text(folder / RUN, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def _is_same(before: Any, asked: Any) -> bool:
    """A setting that the note does not know came later than the run: nothing (false, 0, empty) is what it did then."""
    if isinstance(before, dict) and isinstance(asked, dict):
        return before.keys() <= asked.keys() and all(
            _is_same(before[name], value) if name in before else not value for name, value in asked.items()
        )
    return bool(before == asked)


def _differing(before: Any, asked: Any, name: str = "") -> list[str]:
    """Names of what differs, as `settings.batch.num_images`."""
    if _is_same(before, asked):
        return []
    if not (isinstance(before, dict) and isinstance(asked, dict)):
        return [name]
    keys = dict.fromkeys([*asked, *before])
    return [found for k in keys for found in _differing(before.get(k), asked.get(k), f"{name}.{k}" if name else str(k))]


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
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def keep_log_until(log: Path, step: int | None) -> None:
    """Forgets the lines of later steps, and one that was cut off while it was written; None: all."""
    if step is None:
        log.unlink(missing_ok=True)
    elif log.exists():
        lines = log.read_text(encoding="utf-8").splitlines()
        rows = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_text(log, "".join(row + "\n" for row in rows))
