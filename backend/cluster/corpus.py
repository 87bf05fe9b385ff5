"""Shards of a corpus on Ray's workers: Ray Data hands them out, each worker does a whole shard with the stages of one.

A shard's images are fetched where its masks are computed, and its file is renamed into place there: nothing large
passes between processes. So workers must see the task file and the output folder under the names that the driver
has for them. A worker that dies is replaced, and its shard is done again, into the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from backend.cluster.address import WorkersAddress, connect, room_for
from backend.corpus.output import Output
from backend.corpus.plan import Shard
from backend.corpus.stages import Stages
from calico.errors import InputError

SHARDS_OF_A_BLOCK = 4  # at least; fewer blocks than that would leave workers idle at the end


class RayWorkers:
    """make_stages: called once in each worker, and has to give this `version`. num_gpus: of each worker, a fraction
    where several share a card.
    """

    def __init__(
        self, workers: WorkersAddress, make_stages: Callable[[], Stages], version: str, *, num_gpus: float = 0.0
    ) -> None:
        self._workers, self._make_stages, self._version, self._num_gpus = workers, make_stages, version, num_gpus

    def run(self, shards: Sequence[Shard], output: Output) -> Iterator[tuple[int, int]]:
        """(predictions, failures) of each shard as it is done. Raises InputError where there is no Ray."""
        if not shards:
            return
        ray = connect(self._workers)
        from ray import data as ray_data

        context = ray_data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        most = self._workers.num_workers or room_for(ray, self._num_gpus)
        most = min(most, len(shards))
        blocks = max(most, min(len(shards), 32 * most, max(1, len(shards) // SHARDS_OF_A_BLOCK)))
        rows = ray_data.from_items([asdict(shard) for shard in shards], override_num_blocks=blocks)
        done = rows.map_batches(
            ShardWorker,
            fn_constructor_args=(self._make_stages, self._version, str(output.folder)),
            batch_size=1,
            compute=ray_data.ActorPoolStrategy(min_size=1, max_size=most),
            num_gpus=self._num_gpus or None,
            num_cpus=None if self._num_gpus else 1,
        )
        for row in done.iter_rows():
            yield int(row["predictions"]), int(row["failures"])


class ShardWorker:
    """In a worker: loads the model once, then does the shards that it is given."""

    def __init__(self, make_stages: Callable[[], Stages], version: str, folder: str) -> None:
        self._stages = make_stages()
        if self._stages.version != version:
            raise InputError(
                f"this worker loads {self._stages.version}, the run is with {version}: another version was published, "
                "or the worker's files differ; name the version with --checkpoint"
            )
        self._output = Output(Path(folder))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        counts = []
        for row in zip(*batch.values(), strict=True):
            values = [value.item() if isinstance(value, np.generic) else value for value in row]
            shard = Shard(**dict(zip(batch, values, strict=True)))
            counts.append(self._output.write(shard, self._stages.run(shard.lines())))
        return {"predictions": [count[0] for count in counts], "failures": [count[1] for count in counts]}
