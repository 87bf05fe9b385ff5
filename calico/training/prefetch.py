"""Micro-batches made ahead by other processes: at 1,536 pixels one takes seconds, in which a GPU would wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing import get_all_start_methods
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from calico.training.batches import TrainingBatch


def usable_workers(number: int) -> int:
    """No more than there are processors for this process."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(number, there or 1)


class Place(NamedTuple):
    """Of a micro-batch: `part` of `num_parts` of the step's batch `number`."""

    number: int
    part: int
    num_parts: int


class Prefetcher:
    """Gives the batch at a place, and expects the places that follow it: its step's other parts, then those of the
    batches `stride` further on. Any other place starts anew. make: a function of the place alone."""

    def __init__(self, make: Callable[[int, int, int], TrainingBatch], num_workers: int, stride: int = 1) -> None:
        """num_workers: processes; 0: batches are made when they are asked for, in this one."""
        can_fork = "fork" in get_all_start_methods()  # elsewhere a worker would need everything sent to it
        self._make, self._stride = make, stride
        self._num_workers = usable_workers(num_workers) if can_fork else 0
        self._next: Place | None = None
        self._batches: Iterator[TrainingBatch] = iter(())

    def __call__(self, number: int, part: int, num_parts: int) -> TrainingBatch:
        place = Place(number, part, num_parts)
        if not self._num_workers:
            return self._make(*place)
        if place != self._next:
            self._batches = self._started(place)
        self._next = _after(place, self._stride)
        return next(self._batches)

    def stop(self) -> None:
        self._batches, self._next = iter(()), None

    def _started(self, place: Place) -> Iterator[TrainingBatch]:
        loader = DataLoader(
            _Made(self._make),
            batch_size=None,
            sampler=_Places(place, self._stride),
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork",  # data and tokenizer are there already
            generator=torch.Generator(),  # leaves the run's own as it was
        )
        return iter(loader)


class _Places:
    """All places from one on; a loader's sampler."""

    def __init__(self, place: Place, stride: int) -> None:
        self._place, self._stride = place, stride

    def __iter__(self) -> Iterator[Place]:
        place = self._place
        for _ in count():
            yield place
            place = _after(place, self._stride)


def _after(place: Place, stride: int) -> Place:
    if place.part + 1 < place.num_parts:
        return place._replace(part=place.part + 1)
    return Place(place.number + stride, 0, place.num_parts)


class _Made(Dataset[TrainingBatch]):
    def __init__(self, make: Callable[[int, int, int], TrainingBatch]) -> None:
        self._make = make

    def __getitem__(self, place: Place) -> TrainingBatch:  # type: ignore[override]
        return self._make(*place)
