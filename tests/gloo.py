"""Runs a function in several processes that talk over gloo, as `accelerate launch` would on a machine without a GPU."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

WORLD = 2


def run_together(work: Callable[[Path], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `work(folder)` gives in each process: tensors, and what JSON has.

    They are forks of this one: importing torch and transformers takes longer than what most of them do.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [folder.parent / f"report-{rank}.pt" for rank in range(WORLD)]
    fork = multiprocessing.get_context("fork").Process
    processes = [fork(target=_rank, args=(work, folder, file, rank, port)) for rank, file in enumerate(files)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(1000)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert [process.exitcode for process in processes] == [0] * WORLD, "stderr says why"
    return [torch.load(file, weights_only=True) for file in files]


def _rank(work: Callable[[Path], dict[str, Any]], folder: Path, file: Path, rank: int, port: int) -> None:
    os.environ |= {"WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD), "RANK": str(rank), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    PartialState._reset_state()
    torch.set_num_threads(1)
    torch.save(work(folder), file)
