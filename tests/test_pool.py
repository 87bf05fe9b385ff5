"""Workers behind the queue, as real Ray actors that hold a stand-in for a model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from backend_fakes import FakeSegmenter, picture
from conftest import require
from pool_model import make, make_micro
from test_app import wait_for
from test_cluster import local_ray  # noqa: F401  a fixture
from test_part_memories import QUICK, groups_of
from test_part_memory import sign
from test_succession import publish, registry  # noqa: F401  registry is a fixture

from backend.cluster.address import WorkersAddress
from backend.cluster.sights import PooledLooks
from backend.http.app import create_app
from backend.learning.part_memories import PartMemories
from backend.prediction.champion import Champion
from backend.prediction.engine import Engine
from backend.prediction.lane import Priority
from backend.prediction.packed import Packed, PackedMask
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.errors import CalicoError, CheckpointError
from calico.part_memory import fitting
from calico.values import CoSegmentation, ImageGroup


def group(seed=0, size_hw=(24, 32)):
    return ImageGroup((picture(2 * seed, size_hw=size_hw), picture(2 * seed + 1, size_hw=size_hw)))


def test_a_result_comes_back_as_it_was():
    result = FakeSegmenter().segment(group(1))
    packed = Packed.of(result)
    assert packed.num_bytes < 1024 * 5 + sum(region.mask.nbytes for region in result.regions) / 7
    back = packed.unpacked()
    assert [region.correspondence_id for region in back.regions] == [r.correspondence_id for r in result.regions]
    for one, other in zip(back.regions, result.regions, strict=True):
        assert one.mask.dtype == np.bool_
        assert np.array_equal(one.mask, other.mask)


def test_a_mask_of_any_size_is_unpacked():
    for size_hw in ((1, 1), (3, 5), (8, 8), (13, 7)):
        mask = np.random.default_rng(0).random(size_hw) > 0.5
        assert np.array_equal(PackedMask.of(mask).unpacked(), mask)


class FakeRay:
    """Answers on the caller's thread, or raises `out_of_reach`, as Ray's client does when its server is gone."""

    class exceptions:
        RayError = type("RayError", (Exception,), {})
        RayTaskError = type("RayTaskError", (RayError,), {})
        GetTimeoutError = type("GetTimeoutError", (RayError, TimeoutError), {})

    def __init__(self):
        self.out_of_reach: Exception | None = None
        self.num_put = 0
        self.is_silent = False
        self.kill = lambda actor: None

    def put(self, value):
        self.num_put += 1
        return value

    def get(self, value, timeout=None):
        if self.is_silent and timeout is not None:
            raise self.exceptions.GetTimeoutError
        return value

    def remote(self, **_):
        return lambda cls: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, load):
        self._reach()
        return SimpleNamespace(hold=self._method("base"), segment_many=self._method(("base", [])),
                               sights=self._method(("base", [None])), release=self._method(None))  # fmt: skip

    def _method(self, answer):
        def remote(*_):
            self._reach()
            return answer

        return SimpleNamespace(remote=remote)

    def _reach(self):
        if self.out_of_reach is not None:
            raise self.out_of_reach


def test_workers_are_there_again_after_the_way_to_them_was_lost(monkeypatch, caplog):
    from backend.cluster.pool import ModelPool

    ray = FakeRay()
    monkeypatch.setattr("backend.cluster.pool.connect", lambda workers: ray)
    monkeypatch.setattr("backend.cluster.pool.LOOK_S", 0.01)
    workers = ModelPool(WorkersAddress(None, 2), make)
    try:
        segmenter = workers.load(None)
        ray.out_of_reach = ConnectionError("the server is gone")
        for _ in range(3):
            with pytest.raises(ConnectionError):
                segmenter.segment_many([], candidates=[])
            assert [worker["state"] for worker in workers.shown()] == ["idle"]
        with workers._changed:
            workers._least = 2
        wait_for(lambda: "the server is gone" in caplog.text)
        ray.out_of_reach = None
        wait_for(lambda: [worker["state"] for worker in workers.shown()] == ["idle", "idle"])
        assert segmenter.segment_many([], candidates=[]) == []
    finally:
        workers.close()


@pytest.fixture
def fake_pool(monkeypatch):
    """(Two workers that answer at once, their Ray)."""
    from backend.cluster.pool import ModelPool

    ray = FakeRay()
    monkeypatch.setattr("backend.cluster.pool.connect", lambda workers: ray)
    workers = ModelPool(WorkersAddress(None, 2), make, least=2)
    yield workers, ray
    workers.close()


def test_images_are_stored_once_those_of_a_group_together(fake_pool, monkeypatch):
    workers, ray = fake_pool
    one, other = group(0), group(1)
    before = ray.num_put
    places, *stored = workers.images(one.images, one.digests)
    assert (places, ray.num_put - before) == ([(0, 0), (0, 1)], 1)
    mixed = [one.images[1], other.images[0], one.images[1]]
    places, *stored = workers.images(mixed, [one.digests[1], other.digests[0], one.digests[1]])
    assert [stored[together][place] is image for (together, place), image in zip(places, mixed, strict=True)] == [
        True
    ] * 3
    assert ray.num_put - before == 2
    monkeypatch.setattr("backend.cluster.pool.IMAGES_KEPT_BYTES", one.images[0].nbytes)
    workers.images(one.images, one.digests)  # the others leave
    assert list(workers._images) == [one.digests[1]]
    assert workers._num_bytes == one.images[1].nbytes


def test_a_memorys_question_is_not_waited_for_without_end(fake_pool):
    workers, ray = fake_pool
    segmenter = workers.load(None)
    assert PooledLooks(1.0).sights(segmenter, Memory(), group()) == [None]
    ray.is_silent = True
    with pytest.raises(TimeoutError, match="did not answer in 50 s"):
        PooledLooks(50.0).sights(segmenter, Memory(), group())
    assert all(not slot.beside.total() for slot in workers._slots)


def test_each_worker_is_shown(fake_pool, tmp_path):
    """fake_pool: that of the backend is made of the same Ray."""
    app = create_app(Settings(workers=WorkersAddress(None, 2), min_workers=2, data_dir=tmp_path), load_version=make)
    pool = app.extensions["calico"].pool
    wait_for(lambda: pool.num_lanes == 2)
    client = app.test_client()
    shown = client.get("/health").get_json()["workers"]
    assert shown == [{"worker": number, "state": "idle", "calls": 0} for number in (1, 2)]
    with pool._changed:
        pool._slots[1].state, pool._slots[1].num_calls = "busy", 3
    assert client.get("/health").get_json()["workers"][1] == {"worker": 2, "state": "busy", "calls": 3}
    metrics = client.get("/metrics").text
    assert [f'calico_workers{{state="{state}"}} 1.0' in metrics for state in ("idle", "busy")] == [True, True]
    assert 'calico_worker_calls{state="busy",worker="2"} 3.0' in metrics
    assert "calico_worker_deaths 0.0" in metrics
    page = client.get("/", headers={"Accept": "text/html"}).text
    assert "Workers: 1 busy, 1 idle" in page
    assert "calls answered: 1: 0, 2: 3" in page
    app.extensions["calico"].inbox.close()


def test_a_backend_of_workers_imports_no_model_for_a_project_without_a_memory():
    """Predictions come side by side: two that import transformers at once may both fail."""
    code = """
import sys
from backend.learning.part_memories import PartMemories
from backend.services import build_services
asked = PartMemories(None, None).remembered("7.1", "m1", None, "found", ())
assert asked == ("found", "m1"), asked
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


class Memory:
    """What can be held weakly."""


@pytest.fixture
def pool(local_ray, tmp_path):  # noqa: F811
    """Two workers at most, of which one stays; `notes` says who did what."""
    require("ray", importlib.util.find_spec("ray") is not None, "Ray is not installed: pip install -e '.[cluster]'")
    from backend.cluster.pool import ModelPool

    notes = tmp_path / "notes"
    notes.mkdir()
    pools = []

    def start(least=2, most=2, load=None, **options):
        load = partial(make, notes=notes, **options) if load is None else load
        pools.append(ModelPool(local_ray, load, least=least, most=most, num_cpus=0.1))
        return pools[-1]

    start.notes = notes
    yield start
    for one in pools:
        one.close()


def who(notes: Path) -> dict[str, list[str]]:
    return {path.name: path.read_text().split() for path in notes.iterdir() if path.name.isdigit()}


@pytest.mark.ray
def test_workers_answer_as_the_model_does_and_the_same_one_the_same_images(pool):
    workers = pool()
    segmenter = workers.load(None)
    wait_for(lambda: workers.num_lanes == 2, 30)
    assert segmenter.version == "base"
    for seed in (0, 1, 0, 1, 0):
        [found] = segmenter.segment_many([group(seed)], candidates=[None])
        expected = FakeSegmenter().segment(group(seed))
        assert [np.array_equal(a.mask, b.mask) for a, b in zip(found.regions, expected.regions, strict=True)]
        assert len(found.regions) == len(expected.regions)
    assert sorted(len(set(lines)) for lines in who(pool.notes).values()) == [1, 1]
    image = picture(3)
    mask, score = segmenter.segment_prompts(image, [(4.0, 5.0)], [True], None)
    other, _ = FakeSegmenter().segment_prompts(image, [(4.0, 5.0)], [True], None)
    assert (np.array_equal(mask, other), score) == (True, 0.75)
    found = segmenter.segment_named(group(), "base", {0: "lamp", 1: "lamp"}, shown=[0])
    expected = FakeSegmenter().segment_named(group(), "base", {0: "lamp", 1: "lamp"}, shown=[0])
    assert list(found) == list(expected) == [1]
    assert np.array_equal(found[1][0], expected[1][0])
    red = ImageGroup((picture(1, first=(255, 0, 0)), picture(2)))
    with pytest.raises(RuntimeError, match="out of memory"):
        segmenter.segment_many([red], candidates=[None])
    assert {worker["state"] for worker in workers.shown()} == {"idle"}


@pytest.mark.ray
def test_a_click_is_answered_beside_the_group_of_the_only_worker(pool):
    workers = pool(least=1, most=1, delay_s=0.5)
    engine = Engine(lambda: workers.load(None), Metrics(), lanes=workers)
    engine.segmenter(60)
    engine.segment_prompts(picture(3), [(4.0, 5.0)], [True], None).result(60)
    groups = [engine.segment(group(seed)) for seed in range(4)]
    wait_for(lambda: engine.depth < 4)
    click = engine.segment_prompts(picture(3), [(4.0, 5.0)], [True], None)
    _, score = click.result(60)
    assert (score, sum(call.done() for call in groups) < 3) == (0.75, True)
    for call in groups:
        assert len(call.result(60).regions) == 4


@pytest.mark.ray
def test_a_worker_that_dies_is_replaced_and_its_call_asked_again(pool):
    workers = pool()
    engine = Engine(lambda: workers.load(None), Metrics(), lanes=workers)
    engine.segment(group()).result(60)
    (pool.notes / "die").touch()
    calls = [engine.segment(group(seed)) for seed in range(1, 12)]
    for call in calls:
        assert len(call.result(60).regions) == 4
    assert workers.num_deaths == 1
    wait_for(lambda: [worker["state"] for worker in workers.shown()] == ["idle", "idle"], 30)
    assert len(who(pool.notes)) >= 2


@pytest.mark.ray
def test_after_a_publish_no_worker_answers_with_the_old_version(pool, registry):  # noqa: F811
    workers = pool(delay_s=0.03, broken="v3")
    champion = Champion(registry.folder, None, workers.load)
    engine = Engine(champion.load, Metrics(), follow=champion.follow, lanes=workers)
    engine.segmenter(60)
    answered: list[tuple[float, str]] = []

    def note(call):
        call.future.add_done_callback(lambda _: answered.append((time.monotonic(), call.version)))
        return call

    calls = [note(engine.segment(group(seed))) for seed in range(20)]
    publish(registry, "v1")
    seed = 20
    until = time.monotonic() + 30
    while time.monotonic() < until and sum(version == "v1" for _, version in answered) < 10:
        calls.append(note(engine.segment(group(seed), priority=Priority(1 + seed % 2))))
        seed += 1
        time.sleep(0.02)
    for call in calls:
        call.result(30)
    versions = [version for _, version in sorted(answered)]
    assert set(versions) == {"base", "v1"}
    assert versions == sorted(versions)  # "base" < "v1": none of the old after the first of the new
    publish(registry, "v3")
    wait_for(lambda: engine.models.not_loaded is not None, 30)
    assert "v3 is cut short" in str(engine.models.not_loaded.error)
    assert engine.version() == "v1"
    registry.rollback()
    registry.rollback()
    call = engine.segment(group(99))
    call.result(60)
    assert call.version == "base"


@pytest.mark.ray
def test_workers_come_with_the_queue_and_go_with_rest(pool, monkeypatch):
    monkeypatch.setattr("backend.cluster.pool.LOOK_S", 0.05)
    monkeypatch.setattr("backend.cluster.pool.IDLE_S", 0.5)
    workers = pool(least=1, delay_s=0.05)
    engine = Engine(lambda: workers.load(None), Metrics(), lanes=workers)
    workers.demand = lambda: engine.depth
    engine.segmenter(60)
    assert len(workers.shown()) == 1
    calls = [engine.segment(group(seed)) for seed in range(200)]
    wait_for(lambda: workers.num_lanes == 2, 30)
    for call in calls:
        call.result(60)
    assert len(who(pool.notes)) == 2
    wait_for(lambda: len(workers.shown()) == 1, 30)
    assert len(engine.segment(group(777)).result(30).regions) == 4


@pytest.mark.ray
def test_a_model_that_does_not_load_says_so_and_no_version_but_its_own_is_answered(pool):
    workers = pool(broken="v1")
    with pytest.raises(CheckpointError, match="v1 is cut short"):
        workers.load(version_folder(pool.notes.parent, "v1"))
    segmenter = workers.load(None)
    with pytest.raises(CheckpointError, match="answered with base instead of v9"):
        workers.ask(segmenter._key, "v9", "segment_many", ([], [], []), [])
    with pytest.raises(CalicoError, match="does not hold"):
        workers.ask("another", "base", "segment_many", ([], [], []), [])


@pytest.mark.ray
def test_a_memory_is_fitted_in_one_worker_and_seen_with_in_all(pool, monkeypatch):
    """As with the model in this process, to the last pixel; after a refit no worker answers by the one before."""
    monkeypatch.setattr(fitting, "MemorySettings", lambda **_: QUICK)
    workers = pool(load=make_micro)
    pooled, here = workers.load(None), make_micro(None)
    wait_for(lambda: workers.num_lanes == 2, 120)
    groups = groups_of(6)
    asked = ImageGroup((sign(100).image, sign(101).image))
    found, memories = {}, {}
    for name, segmenter, looks in (("workers", pooled, PooledLooks(120)), ("here", here, None)):
        engine = SimpleNamespace(segmenter=lambda segmenter=segmenter: segmenter)
        memories[name] = PartMemories(engine, lambda project, longest: list(groups), looks=looks)
        memories[name].fit(7)
        found[name] = memories[name].remembered("7.1", "m1", asked, CoSegmentation(asked.sizes_hw), ())
    assert found["workers"][1] == found["here"][1] == "m1+6 groups"
    pairs = list(zip(found["workers"][0].regions, found["here"][0].regions, strict=True))
    assert {a.part_name for a, _ in pairs} == {None, "board", "post"}
    assert all(a.key == b.key and (a.mask == b.mask).mean() > 0.99 for a, b in pairs)
    groups += groups_of(7)[6:]
    memories["workers"].fit(7)
    for _ in range(4):  # whichever answers
        again = memories["workers"].remembered("7.1", "m1", asked, CoSegmentation(asked.sizes_hw), ())
        assert again[1] == "m1+7 groups"
    fitter = next(slot for slot in workers._slots if "project 7" in slot.seen)
    workers._ray.kill(fitter.actor)
    memories["workers"].fit(7)  # another one reads all again
    assert memories["workers"].as_json()[0]["state"] == "learnt"
    assert workers.num_deaths == 1


@pytest.mark.ray
def test_a_pool_whose_ray_has_ended_starts_no_other(pool, monkeypatch):
    """The last one here: it ends the Ray of the others. Ray starts itself when it is used, unless it is told not to;
    what a thread starts so ends with the thread, and a minute later it ends this process without a word."""
    monkeypatch.setattr("backend.cluster.pool.LOOK_S", 0.05)
    workers = pool(least=1)
    workers.load(None)
    [slot] = workers._slots
    workers.demand = lambda: 1
    slot.state = "busy"  # so that another is wanted
    workers._ray.shutdown()
    workers._kill(slot)
    time.sleep(1.0)
    assert not workers._ray.is_initialized()


def version_folder(parent: Path, content: str) -> Path:
    folder = parent / content
    folder.mkdir()
    (folder / "model.safetensors").write_text(content)
    return folder
