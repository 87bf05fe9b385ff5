"""One queue before several workers: as many calls at once as are ready, of one version at a time, by priority."""

from __future__ import annotations

import threading
import time

import pytest
from backend_fakes import FakeSegmenter, Named, picture
from test_app import wait_for
from test_succession import Loads, group, publish, registry  # noqa: F401  registry is a fixture

from backend.prediction.champion import Champion
from backend.prediction.engine import Engine
from backend.prediction.lane import Priority
from backend.telemetry.prometheus import Metrics


class SomeLanes:
    max_lanes = 4

    def __init__(self, num_lanes=4):
        self.num_lanes = num_lanes
        self.on_change = lambda: None


def test_calls_run_side_by_side_as_far_as_there_are_lanes():
    segmenter, lanes = FakeSegmenter(delay_s=0.05), SomeLanes(2)
    engine = Engine(lambda: segmenter, Metrics(), lanes=lanes, groups_at_once=2)
    calls = [engine.segment(group(seed)) for seed in range(8)]
    for call in calls:
        call.result(10)
    assert segmenter.most_running == 2
    lanes.num_lanes = 4
    lanes.on_change()
    for call in [engine.segment(group(seed)) for seed in range(8, 20)]:
        call.result(10)
    assert segmenter.most_running == 4


def test_few_groups_are_spread_over_idle_workers_and_not_put_into_one_batch():
    sizes = []

    class Noting(FakeSegmenter):
        def segment_many(self, groups, *, candidates):
            sizes.append(len(groups))
            time.sleep(0.05)
            return super().segment_many(groups, candidates=candidates)

    lanes, segmenter = SomeLanes(0), Noting()
    engine = Engine(lambda: segmenter, Metrics(), lanes=lanes, groups_at_once=4)
    calls = [engine.segment(group(seed)) for seed in range(4)]
    lanes.num_lanes = 4
    lanes.on_change()
    for call in calls:
        call.result(10)
    assert sizes == [1, 1, 1, 1]


def test_after_the_first_answer_of_a_new_version_there_is_none_of_the_old(registry):  # noqa: F811
    """Also of calls that waited when it took over, and of more urgent ones than those that run."""
    loads = Loads(hold_after=0)
    champion = Champion(registry.folder, None, loads)
    engine = Engine(champion.load, Metrics(), follow=champion.follow, lanes=SomeLanes(2), cache_bytes=10**6)
    calls = [engine.segment(group(seed)) for seed in range(6)]
    wait_for(lambda: loads.made[0]().num_running == 2)
    publish(registry, "v1")
    wait_for(lambda: engine.version() == "v1")
    loads.made[1]().gate.set()
    opened = engine.segment(group(9), priority=Priority.WAITED_FOR)
    time.sleep(0.15)
    assert not opened.done()  # the two that run are of the old one
    loads.made[0]().gate.set()
    for call in [*calls, opened]:
        call.result(10)
    assert [call.version for call in calls] == ["base"] * 2 + ["v1"] * 4
    assert opened.version == "v1"
    assert engine.kept("v1", group(5)) is not None
    assert engine.kept("base", group(5)) is None


def test_after_a_rollback_what_waits_is_not_answered_by_the_newer_one(registry):  # noqa: F811
    publish(registry, "v1")
    gate, started = threading.Event(), threading.Event()

    def load(folder):
        if folder is None:
            started.set()
            assert gate.wait(10)
        return Named(folder, hold_after=0 if folder else None)

    champion = Champion(registry.folder, None, load)
    engine = Engine(champion.load, Metrics(), follow=champion.follow, lanes=SomeLanes(2))
    segmenter = engine.segmenter(10)
    calls = [engine.segment(group(seed)) for seed in range(6)]
    wait_for(lambda: segmenter.num_running == 2)
    registry.rollback()
    engine.models.look()
    assert started.wait(10)
    segmenter.gate.set()
    wait_for(lambda: sum(call.done() for call in calls) == 2)
    time.sleep(0.2)
    assert sum(call.done() for call in calls) == 2
    gate.set()
    for call in calls:
        call.result(10)
    assert [call.version for call in calls] == ["v1"] * 2 + ["base"] * 4


def test_a_click_runs_beside_groups_where_there_are_workers():
    segmenter = FakeSegmenter(hold_after=0)
    engine = Engine(lambda: segmenter, Metrics(), lanes=SomeLanes(1))
    groups = [engine.segment(group(seed)) for seed in range(3)]
    wait_for(lambda: segmenter.num_running == 1)
    clicks = [engine.segment_prompts(picture(seed), [(3.0, 3.0)], [True], None) for seed in range(3)]
    for click in clicks:
        click.result(10)
    assert not any(call.done() for call in groups)
    segmenter.gate.set()
    for call in groups:
        call.result(10)
    assert segmenter.most_running == 2


@pytest.mark.parametrize("lanes", [None, SomeLanes(3)])
def test_equal_questions_are_one_computation_however_many_lanes(lanes):
    segmenter = FakeSegmenter(delay_s=0.05)
    engine = Engine(lambda: segmenter, Metrics(), lanes=lanes)
    for call in [engine.segment(group(1)) for _ in range(6)]:
        call.result(10)
    assert segmenter.num_groups == 1
