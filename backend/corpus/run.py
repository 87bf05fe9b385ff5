"""A run over a corpus: which shards are left, who does them, and what came of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from backend.codecs.config import read_config
from backend.corpus.output import Output
from backend.corpus.plan import Plan, Shard
from backend.corpus.stages import Stages
from backend.host.client import LabelStudioClient
from backend.media.media import Media
from backend.services import champion_of
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.inference.belief import MIN_IMAGE_SCORE

MAX_REASONS = 20
MAX_REASONS_COUNTED = 10_000  # memory is bounded, whatever the failures say


@dataclass
class Summary:
    """Counts of tasks. predicted: by this start of the run; resumed: done by an earlier one, failures included.

    failed: of all starts, in the end. reasons: of the failures, the most frequent ones.
    """

    num_tasks: int = 0
    predicted: int = 0
    failed: int = 0
    resumed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        lines = [f"{self.num_tasks:>9} tasks"]
        rows = [(self.resumed, "done before"), (self.predicted, "predicted"), (self.failed, "failed")]
        lines += [f"{count:>9} {what}" for count, what in rows if count]
        return "\n".join(lines + [f"{count:>9} failed: {reason}" for reason, count in self.reasons.items()])


class Workers(Protocol):
    """Who does shards: this process, or those of a cluster. Yields (predictions, failures) of each finished shard."""

    def run(self, shards: Sequence[Shard], output: Output) -> Iterator[tuple[int, int]]: ...


class ThisProcess:
    """One shard after another."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def run(self, shards: Iterable[Shard], output: Output) -> Iterator[tuple[int, int]]:
        for shard in shards:
            yield output.write(shard, self._stages.run(shard.lines()))


def open_stages(settings: Settings, config_xml: str, *, batch_size: int, threads: int) -> Stages:
    """Loads the model that the settings let serve. Raises CheckpointError and InputError as loading does."""
    token = settings.label_studio_api_key
    client = LabelStudioClient(settings.label_studio_url, token) if settings.label_studio_url and token else None
    segmenter = champion_of(settings).load()
    media = Media(settings, Metrics(), client)
    config, least = read_config(config_xml), settings.min_score
    return Stages(segmenter, media, config, batch_size=batch_size, threads=threads, min_score=least)


def note_of(
    plan: Plan, config_xml: str, version: str, shard_size: int, min_score: float = MIN_IMAGE_SCORE
) -> dict[str, Any]:
    """What must be equal for a run to go on where another stopped."""
    return {
        "tasks_sha256": plan.sha256,
        "num_tasks": plan.num_tasks,
        "shard_size": shard_size,
        "config_sha256": hashlib.sha256(config_xml.encode()).hexdigest(),
        "model_version": version,
        "min_score": min_score,
    }


def run_corpus(
    plan: Plan,
    output: Output,
    workers: Workers,
    on_shard: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Does the shards that are not done. `output` is open. on_shard: called at the start and after each shard."""
    waiting = [shard for shard in plan.shards if not output.is_done(shard)]
    summary = Summary(num_tasks=plan.num_tasks)
    summary.resumed = plan.num_tasks - sum(shard.num_tasks for shard in waiting)
    on_shard(summary)
    for num_predictions, num_failures in workers.run(waiting, output):
        summary.predicted += num_predictions
        summary.failed += num_failures
        on_shard(summary)
    reasons: Counter[str] = Counter()
    summary.failed = 0
    for failure in output.failures():
        summary.failed += 1
        if len(reasons) < MAX_REASONS_COUNTED or failure["reason"] in reasons:
            reasons[failure["reason"]] += 1
    summary.reasons = dict(reasons.most_common(MAX_REASONS))
    return summary
