from __future__ import annotations

import threading

import numpy as np
import pytest
from backend_fakes import FakeSegmenter, picture

from backend.prediction.activity import Jobs, JobState
from backend.prediction.engine import Engine, NotReady
from backend.prediction.lane import Lane, LaneFull, Priority
from backend.prediction.result_cache import ResultCache
from backend.telemetry.prometheus import Metrics
from calico.checkpoints.fingerprint import EMBEDDED, checkpoint_version
from calico.correspondence import co_segmentation
from calico.errors import CheckpointError
from calico.values import CoSegmentation, ImageGroup, NamedMask

MEGABYTE = 1_000_000


def group(seed: int) -> ImageGroup:
    return ImageGroup((picture(2 * seed), picture(2 * seed + 1)))


def blocked_lane(capacity: int = 10) -> tuple[Lane, threading.Event]:
    """A lane whose one thread is busy until the event is set."""
    lane, running, gate = Lane("test", num_threads=1, capacity=capacity), threading.Event(), threading.Event()
    lane.submit(lambda: (running.set(), gate.wait(10)))
    assert running.wait(10)
    return lane, gate


def test_a_lane_runs_by_priority_then_by_arrival():
    lane, gate = blocked_lane()
    order: list[str] = []
    futures = [
        lane.submit(lambda name=name: order.append(name), priority)
        for name, priority in [
            ("batch 1", Priority.BATCH),
            ("batch 2", Priority.BATCH),
            ("click", Priority.FIRST),
            ("opened", Priority.WAITED_FOR),
        ]
    ]
    gate.set()
    for future in futures:
        future.result(10)
    assert order == ["click", "opened", "batch 1", "batch 2"]


def test_a_lane_is_bounded():
    lane, gate = blocked_lane(capacity=2)
    futures = [lane.submit(lambda: None) for _ in range(2)]
    assert lane.depth == 2
    with pytest.raises(LaneFull, match="2 calls wait"):
        lane.submit(lambda: None)
    gate.set()
    for future in futures:
        future.result(10)
    assert lane.submit(lambda: "room again").result(10) == "room again"


def test_an_error_reaches_the_caller_and_leaves_the_lane_alive():
    lane = Lane("test", num_threads=1, capacity=4)
    with pytest.raises(ZeroDivisionError):
        lane.submit(lambda: 1 / 0).result(10)
    assert lane.submit(lambda: 2).result(10) == 2


def test_the_engine_loads_in_the_background_once():
    gate, loads = threading.Event(), []

    def load():
        loads.append(gate.wait(10))
        return FakeSegmenter()

    engine = Engine(load, Metrics())
    assert engine.state == "loading"
    with pytest.raises(NotReady):
        engine.version(timeout_s=0.01)
    gate.set()
    assert engine.version(10) == "fake-1"
    assert engine.state == "ready"
    for seed in range(3):
        engine.segment(group(seed)).result(10)
    assert loads == [True]


def test_the_files_tell_the_version_that_the_loaded_model_has():
    if not EMBEDDED.exists():
        pytest.skip(f"{EMBEDDED} is missing: train a checkpoint first")
    from calico.inference.segmenter import CoSegmenter

    assert checkpoint_version() == CoSegmenter.from_checkpoint().version


@pytest.mark.parametrize(
    "error", [CheckpointError("weights are cut short"), ImportError("no torch"), TimeoutError("slow")]
)
def test_a_model_that_does_not_load_says_why(error):
    def load():
        raise error

    engine = Engine(load, Metrics())
    with pytest.raises(CheckpointError, match=str(error)):
        engine.segment(group(0))
    assert engine.state == "failed"
    assert engine.failure is error


def test_equal_calls_in_flight_are_computed_once():
    segmenter = FakeSegmenter(delay_s=0.2)
    engine = Engine(lambda: segmenter, Metrics(), cache_bytes=0)
    futures = [engine.segment(group(1)) for _ in range(5)]
    assert len({id(future.result(10)) for future in futures}) == 1
    assert segmenter.num_groups == 1
    engine.segment(group(1)).result(10)  # no cache: later is computed again
    assert segmenter.num_groups == 2


def test_results_are_cached_by_content_and_candidates():
    segmenter = FakeSegmenter()
    engine = Engine(lambda: segmenter, Metrics(), cache_bytes=MEGABYTE)
    first = engine.segment(group(1)).result(10)
    again = engine.segment(group(1)).result(10)
    assert segmenter.num_groups == 1
    assert [region.key for region in again.regions] == [region.key for region in first.regions]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(again.regions, first.regions, strict=True))
    engine.segment(group(1), candidates=("lamp",)).result(10)
    engine.segment(group(2)).result(10)
    assert segmenter.num_groups == 3
    assert segmenter.candidates == [None, ("lamp",), None]


def test_a_failure_is_not_cached():
    segmenter = FakeSegmenter()
    engine = Engine(lambda: segmenter, Metrics(), cache_bytes=MEGABYTE)
    bad = ImageGroup((picture(1, first=(255, 0, 0)), picture(2)))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            engine.segment(bad).result(10)
    assert segmenter.num_groups == 2


def test_the_model_runs_one_call_at_a_time_and_answers_are_not_mixed():
    segmenter = FakeSegmenter(delay_s=0.002)
    engine = Engine(lambda: segmenter, Metrics())
    wrong: list[int] = []

    def ask(seeds):
        for seed in seeds:
            if seed % 3 == 0:
                image = picture(seed)
                mask, _ = engine.segment_prompts(image, [(seed % 30, 5.0)], [True], None).result(30)
                wrong.extend([seed] if not mask[5, seed % 30] else [])
                continue
            result = engine.segment(group(seed)).result(30)
            objects = {region.image: region.mask for region in result.regions if region.kind == "object"}
            wrong.extend(
                seed
                for i, image in enumerate(group(seed).images)
                if not np.array_equal(objects[i], image[..., 1] > 127)
            )

    threads = [threading.Thread(target=ask, args=(range(start, 100, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert segmenter.most_running == 1


def test_a_click_goes_before_waiting_groups():
    segmenter = FakeSegmenter(delay_s=0.05)
    engine = Engine(lambda: segmenter, Metrics())
    groups = [engine.segment(group(seed)) for seed in range(6)]
    engine.segment_prompts(picture(1), [(3.0, 3.0)], [True], None).result(10)
    assert not all(future.done() for future in groups)
    assert segmenter.num_groups <= 2


def two_lamps(seed: int, size_hw=(64, 64)) -> CoSegmentation:
    mask = np.random.default_rng(seed).random(size_hw) > 0.5
    return co_segmentation([size_hw, size_hw], [NamedMask(0, "lamp", None, mask), NamedMask(1, "lamp", None, ~mask)])


def test_the_result_cache_is_bounded_and_drops_the_least_used():
    one = two_lamps(0)
    cache = ResultCache(12_000)
    cache.put(0, one)
    size = cache.num_bytes
    assert 2 * 64 * 64 / 8 <= size < 6000
    cache.put(1, two_lamps(1))
    assert cache.get(0) is not None  # used: 1 goes before it
    for key in range(2, 12_000 // size + 1):
        cache.put(key, two_lamps(key))
    assert cache.num_bytes <= 12_000
    assert cache.get(0) is not None
    assert cache.get(1) is None
    ResultCache(0).put(0, one)
    large = ResultCache(100)
    large.put(0, one)
    assert large.get(0) is None


def test_jobs_keep_the_open_ones_and_the_latest_that_ended():
    jobs = Jobs(keep=2)
    made = [jobs.add(task, "1.1") for task in range(4)]
    for job in made[:3]:
        jobs.update(job, JobState.RUNNING)
        jobs.update(job, JobState.FAILED, "reason")
    shown = jobs.as_json()
    assert shown["counts"] == {"failed": 3, "queued": 1}
    assert [job["task"] for job in shown["jobs"]] == [3, 2, 1]
    assert jobs.as_json(state="failed", limit=1)["jobs"][0]["reason"] == "reason"
    assert [job["id"] for job in jobs.as_json(task=1)["jobs"]] == [made[1].id]


class BatchSegmenter(FakeSegmenter):
    """Waits for the gate with the first group. sizes: groups of each call."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.start, self.sizes = gate, []

    def segment_many(self, groups, *, candidates):
        self.start.wait(10)
        self.sizes.append(len(groups))
        return super().segment_many(groups, candidates=candidates)


def queued(groups_at_once: int, seeds: range, **options) -> tuple[BatchSegmenter, list]:
    """One group that runs, and those of the seeds, which wait behind it."""
    gate = threading.Event()
    segmenter = BatchSegmenter(gate)
    engine = Engine(lambda: segmenter, Metrics(), groups_at_once=groups_at_once)
    calls = [engine.segment(group(100))]
    while engine.depth:  # until the first one runs
        gate.wait(0.01)
    calls += [engine.segment(group(seed), **options) for seed in seeds]
    gate.set()
    return segmenter, calls


def test_groups_that_wait_are_answered_together_each_its_own():
    segmenter, calls = queued(3, range(4))
    for call, seed in zip(calls, (100, 0, 1, 2, 3), strict=True):
        assert np.array_equal(call.result(10).regions[0].mask, group(seed).images[0][..., 1] > 127)
    assert segmenter.sizes == [1, 3, 1]
    assert segmenter.num_groups == 5


def test_one_group_that_fails_spoils_no_other():
    gate = threading.Event()
    segmenter = BatchSegmenter(gate)
    engine = Engine(lambda: segmenter, Metrics(), groups_at_once=4)
    first = engine.segment(group(100))
    while engine.depth:
        gate.wait(0.01)
    bad = ImageGroup((picture(1, first=(255, 0, 0)), picture(2)))
    calls = [engine.segment(g) for g in (group(1), bad, group(2))]
    gate.set()
    assert first.result(10).regions
    assert calls[0].result(10).regions
    assert calls[2].result(10).regions
    with pytest.raises(RuntimeError, match="out of memory"):
        calls[1].result(10)
    assert segmenter.sizes == [1, 3, 1, 1, 1]
    assert not engine._worker._calls


def test_who_waits_before_a_screen_is_not_put_into_a_batch():
    segmenter, calls = queued(4, range(2))
    segmenter_alone, opened = queued(4, range(2), priority=Priority.WAITED_FOR)
    for call in (*calls, *opened):
        call.result(10)
    assert segmenter.sizes == [1, 2]
    assert segmenter_alone.sizes == [1, 1, 1]


def held_engine(**options) -> tuple[BatchSegmenter, Engine]:
    """An engine whose model is busy with a group until `segmenter.start` is set."""
    segmenter = BatchSegmenter(threading.Event())
    engine = Engine(lambda: segmenter, Metrics(), **options)
    engine.segment(group(100))
    while engine.depth:
        segmenter.start.wait(0.01)
    return segmenter, engine


def test_calls_run_by_priority_then_by_arrival():
    segmenter, engine = held_engine()
    calls = [engine.segment(group(1)), engine.segment(group(2))]
    calls.append(engine.segment_prompts(picture(9), [(3.0, 3.0)], [True], None))
    calls.append(engine.segment(group(3), priority=Priority.WAITED_FOR))
    order: list[int] = []
    for place, call in enumerate(calls):
        call.future.add_done_callback(lambda _, place=place: order.append(place))
    segmenter.start.set()
    for call in calls:
        call.result(10)
    assert order == [2, 3, 0, 1]


def test_a_full_queue_of_groups_refuses_groups_and_no_click():
    segmenter, engine = held_engine(queue_size=2)
    calls = [engine.segment(group(seed)) for seed in range(2)]
    with pytest.raises(LaneFull, match="2 calls wait"):
        engine.segment(group(2))
    engine.segment(group(0))  # the same again needs no room
    calls.append(engine.segment_prompts(picture(9), [(3.0, 3.0)], [True], None))
    segmenter.start.set()
    for call in calls:
        call.result(10)
    assert engine.segment(group(2)).result(10).regions


def test_a_group_that_somebody_opens_moves_up_from_the_batch_that_it_waits_in():
    segmenter, engine = held_engine(groups_at_once=2)
    batch = [engine.segment(group(seed)) for seed in range(4)]
    opened = engine.segment(group(3), priority=Priority.WAITED_FOR)
    assert opened.future is batch[3].future
    segmenter.start.set()
    for call in batch:
        call.result(10)
    assert segmenter.sizes == [1, 1, 2, 1]


def test_a_click_that_nobody_waits_for_any_more_does_not_run():
    segmenter, engine = held_engine()
    late = engine.segment_prompts(picture(9), [(3.0, 3.0)], [True], None)
    with pytest.raises(TimeoutError):
        late.result(0.01)
    late.cancel()
    segmenter.start.set()
    engine.segment_prompts(picture(9), [(4.0, 4.0)], [True], None).result(10)
    assert [points for _, points, _, _ in segmenter.prompts] == [((4.0, 4.0),)]


def test_a_model_that_gives_too_few_answers_fails_the_group():
    segmenter = FakeSegmenter()
    segmenter.segment_many = lambda groups, *, candidates: []
    with pytest.raises(ValueError, match="zip"):
        Engine(lambda: segmenter, Metrics()).segment(group(1)).result(10)
