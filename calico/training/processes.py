"""Several processes that train one model: `accelerate launch` starts them, each takes batches of its own.

Gradients are averaged here rather than by a wrapper around the model: frozen weights need no syncing, and a process
that runs out of memory can say so before the others wait for it. The main process alone writes, and what it decides
the others are told. Alone, a process does all of this by doing nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, distributed

from calico.errors import CalicoError, CheckpointError, InputError
from calico.model.out_of_memory import is_out_of_memory

WAIT = timedelta(days=1)  # for the main process, while it scores; the launcher ends all when one dies
SMALL = 4096  # weights of a tensor that is not worth a message of its own
T = TypeVar("T")


class OutOfMemoryTogether(MemoryError):
    """Memory ran out on one of the processes; raised on all of them."""


class Processes:
    """Those of this run. device: this process's own, a GPU where there is one."""

    def __init__(self) -> None:
        self.num, self.index = 1, 0
        is_cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
        self.device = torch.device("cpu" if is_cpu else "cuda")
        if "LOCAL_RANK" in os.environ:  # set by the launcher
            state = PartialState(cpu=is_cpu, timeout=WAIT)
            self.num, self.index = int(state.num_processes), int(state.process_index)
            self.device = torch.device("cpu") if is_cpu else state.device  # which says cpu:0
        self.is_main = self.index == 0

    def from_main(self, value: T) -> T:
        """The main process's value, on every process. JSON-ready: lists come as lists."""
        if self.num == 1:
            return value
        text = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor([len(text)], device=self.device)
        distributed.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main:
            content = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        content = content.to(self.device)
        distributed.broadcast(content, 0)
        received: T = json.loads(bytes(content.tolist()))
        return value if self.is_main else received

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` gives on the main process, on all; JSON-ready. What it raises there, all raise."""
        if self.num == 1:
            return work()
        done: dict[str, Any] = {}
        failure: Exception | None = None
        if self.is_main:
            try:
                done = {"result": work()}
            except Exception as error:
                kinds = [kind for kind in _ERRORS if isinstance(error, kind)]
                done, failure = {"error": str(error), "kind": kinds[0].__name__ if kinds else ""}, error
        done = self.from_main(done)
        if failure is not None:
            raise failure
        if "error" in done:
            raise {kind.__name__: kind for kind in _ERRORS}.get(done["kind"], CalicoError)(done["error"])
        result: T = done["result"]
        return result

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Around work that every process does: where memory runs out on one, all raise `OutOfMemoryTogether`."""
        lacking: BaseException | None = None
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self.num == 1 or not is_out_of_memory(error):
                raise
            lacking = error
        if self.num > 1:
            flag = torch.tensor([float(lacking is not None)], device=self.device)
            distributed.all_reduce(flag)
            if flag.item():
                raise OutOfMemoryTogether(str(lacking or "on another process")) from lacking

    @torch.no_grad()
    def average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Each gradient becomes the mean over all processes; one that no process has stays None."""
        if self.num == 1:
            return
        parameters = list(parameters)
        sums = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in parameters]
            + [torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)]
        )
        distributed.all_reduce(sums)
        *gradients, owners = sums.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, gradient, num_owners in zip(parameters, gradients, owners.tolist(), strict=True):
            mean = (gradient / self.num).view_as(parameter).to(parameter.dtype)
            parameter.grad = mean if num_owners else None

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes the main process's. Small ones go together, by type."""
        if self.num == 1:
            return
        small: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.numel() > SMALL:
                distributed.broadcast(tensor.data, 0)
            else:
                small.setdefault(tensor.dtype, []).append(tensor)
        for together in small.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in together])
            distributed.broadcast(flat, 0)
            for tensor, values in zip(together, flat.split([t.numel() for t in together]), strict=True):
                tensor.copy_(values.view_as(tensor))


_ERRORS: tuple[type[CalicoError], ...] = (InputError, CheckpointError)
