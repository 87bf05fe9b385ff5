"""A version is published or rolled back while the backend runs."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref

import pytest
from backend_fakes import Named, pair_task, picture
from micro import save_micro, shorten_answers
from test_app import make, predict, wait_for  # noqa: F401  make is a fixture

from backend.prediction.champion import Champion
from backend.prediction.engine import Engine, NotReady
from backend.telemetry.prometheus import Metrics
from calico.checkpoints import files
from calico.checkpoints.fingerprint import EMBEDDED
from calico.checkpoints.registry import POINTER, Registry
from calico.errors import CheckpointError, InputError
from calico.inference.segmenter import CoSegmenter
from calico.model.builder import build
from calico.values import ImageGroup


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


def add(registry, content):
    """A version whose weights are a text."""
    folder = registry.folder.parent / f"made-{content}"
    folder.mkdir()
    (folder / "model.safetensors").write_text(content)
    return registry.add(folder, kind="checkpoint", preset="fake").id


def publish(registry, content):
    name = add(registry, content)
    registry.publish(name, force_reason="a test")
    return name


def group(seed=0):
    return ImageGroup((picture(2 * seed), picture(2 * seed + 1)))


class Loads:
    """`load` of a Champion: makes Named ones, waits for `gate` while it is not set, and counts."""

    def __init__(self, **options) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.made: list[weakref.ref] = []
        self.options = options

    def __call__(self, folder):
        assert self.gate.wait(10)
        made = Named(folder, **self.options)
        self.made.append(weakref.ref(made))
        return made


def engine_on(registry, loads, **options):
    champion = Champion(registry.folder, None, loads)
    return Engine(champion.load, Metrics(), follow=champion.follow, **options)


def test_two_requests_around_a_publish_carry_both_versions(registry):
    loads = Loads()
    engine = engine_on(registry, loads, cache_bytes=1_000_000)
    first = engine.segment(group())
    assert first.result(10) is not None
    loads.gate.clear()
    publish(registry, "v1")
    during = engine.segment(group())  # the new one is being loaded: the old one answers
    assert engine.models.successor is not None
    loads.gate.set()
    wait_for(lambda: engine.version() == "v1")
    after = engine.segment(group())
    after.result(10)
    assert [call.version for call in (first, during, after)] == ["base", "base", "v1"]
    assert loads.made[1]().num_groups == 1  # not the old one's cached result


def test_what_was_asked_of_the_old_version_is_answered_and_named_by_it(registry):
    loads = Loads(hold_after=0)
    engine = engine_on(registry, loads)
    calls = [engine.segment(group(seed)) for seed in range(3)]
    publish(registry, "v1")
    wait_for(lambda: engine.version() == "v1")
    assert not any(call.done() for call in calls)
    loads.made[0]().gate.set()
    for call in calls:
        call.result(10)
        assert call.version == "base"
    assert loads.made[0]() is None or loads.made[0]().num_groups == 3


def test_the_old_ones_memory_is_free(registry):
    loads = Loads()
    engine = engine_on(registry, loads)
    engine.segment(group()).result(10)
    for name in ("v1", "v2"):
        publish(registry, name)
        wait_for(lambda name=name: engine.version() == name)
        engine.segment(group()).result(10)
    registry.rollback()
    assert engine.version(10) == "v1"
    wait_for(lambda: (gc.collect(), [ref() is None for ref in loads.made] == [True, True, True, False])[1])


def test_a_version_waits_until_the_one_before_last_is_gone(registry, monkeypatch):
    """Two are in memory while one takes over, never three; what the old one held then goes back to the system."""
    given_back = []
    monkeypatch.setattr("calico.model.out_of_memory.give_back_memory", lambda: given_back.append(alive()))
    loads = Loads(hold_after=0)

    def alive():
        return sum(ref() is not None for ref in loads.made)

    engine = engine_on(registry, loads)
    call = engine.segment(group())  # of the first, which does not end
    publish(registry, "v1")
    wait_for(lambda: engine.version() == "v1")
    publish(registry, "v2")
    time.sleep(0.3)
    assert (engine.version(), len(loads.made), alive()) == ("v1", 2, 2)
    loads.made[0]().gate.set()
    call.result(10)
    wait_for(lambda: engine.version() == "v2")
    wait_for(lambda: alive() == 1)
    wait_for(lambda: given_back == [1, 1])


def test_a_model_that_rests_is_gone_and_wakes_as_what_is_to_serve_then(registry):
    loads = Loads(hold_after=1)
    engine = engine_on(registry, loads)
    engine.segment(group()).result(10)
    call = engine.segment(group(1))
    engine.models.rest()
    engine.models.rest()
    for ask in (engine.version, lambda: engine.segment(group(2))):
        with pytest.raises(NotReady, match="rests while a version is trained"):
            ask()
    loads.made[0]().gate.set()
    assert call.result(10) is not None  # what had it goes on
    wait_for(lambda: loads.made[0]() is None)
    publish(registry, "v1")
    engine.models.look()
    assert (engine.models.is_resting, len(loads.made)) == (True, 1)
    engine.models.wake()
    engine.models.wake()
    assert engine.version(10) == "v1"
    assert len(loads.made) == 2
    engine.models.rest()
    engine.models.wake()
    assert engine.version(10) == "v1"


def test_one_that_rested_and_does_not_load_says_so_and_is_tried_again(registry, monkeypatch):
    broken = [True]

    def load(folder):
        if broken[0]:
            raise RuntimeError("no room")
        return Named(folder)

    engine = Engine(lambda: load(None), Metrics(), rests=True)
    assert engine.models.is_resting
    engine.models.wake()
    with pytest.raises(CheckpointError, match="no room"):
        engine.version(10)
    assert engine.state == "failed"
    broken[0] = False
    monkeypatch.setattr("backend.prediction.succession.RETRY_S", 0.0)
    engine.models.look()
    wait_for(lambda: engine.state == "ready")
    assert engine.version() == "base"


def test_real_models_at_a_switch_are_two_at_most(registry, tmp_path, monkeypatch):
    made, at_build = [], []

    def counted(config):
        at_build.append(sum(ref() is not None for ref in made))
        model = build(config)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(files, "build", counted)
    shorten_answers(monkeypatch)
    for seed in range(3):
        save_micro(tmp_path / f"model-{seed}", seed)
    champion = Champion(
        registry.folder, tmp_path / "model-0", lambda folder: CoSegmenter.from_checkpoint(folder, "cpu")
    )
    engine = Engine(champion.load, Metrics(), follow=champion.follow)
    for seed in (1, 2):
        before = engine.version(60)
        engine.segment(group(seed)).result(60)
        version = registry.add(tmp_path / f"model-{seed}", kind="checkpoint", preset="calico-tiny")
        registry.publish(version.id, force_reason="a test")
        wait_for(lambda before=before: engine.version() != before, 60)
    registry.rollback()
    assert engine.version(60) == champion.version_of_files()
    engine.segment(group()).result(60)
    assert at_build == [0, 1, 1, 1]
    wait_for(lambda: sum(ref() is not None for ref in made) == 1)


def test_after_a_rollback_no_request_is_answered_by_the_newer_one(registry):
    loads = Loads()
    publish(registry, "v1")
    publish(registry, "v2")
    engine = engine_on(registry, loads, cache_bytes=1_000_000)
    assert engine.segment(group()).version == "v2"
    loads.gate.clear()
    registry.rollback()
    answered: list[str] = []
    asking = threading.Thread(target=lambda: answered.append(engine.segment(group()).version))
    asking.start()
    assert engine.state == "loading"
    loads.gate.set()
    asking.join(10)
    assert answered == ["v1"]
    registry.rollback()
    assert engine.segment(group()).version == "base"


def test_a_version_that_does_not_load_keeps_the_old_one(registry, monkeypatch, caplog):
    loads = Loads()
    engine = engine_on(registry, loads)
    assert engine.version(10) == "base"
    name = publish(registry, "broken")
    wait_for(lambda: engine.models.not_loaded)
    assert engine.version() == "base"
    assert engine.models.not_loaded.successor.name == name
    wait_for(lambda: f"{name} does not load" in caplog.text)  # said right after it is known
    publish(registry, "v1")
    wait_for(lambda: engine.version() == "v1")
    assert engine.models.not_loaded is None
    changed = publish(registry, "v2")
    assert (registry.path_of(changed) / "model.safetensors").write_text("tampered")
    wait_for(lambda: engine.models.not_loaded)
    assert "changed" in str(engine.models.not_loaded.error)
    assert engine.version() == "v1"
    (registry.path_of(changed) / "model.safetensors").write_text("v2")
    monkeypatch.setattr("backend.prediction.succession.RETRY_S", 0.0)
    wait_for(lambda: engine.version() == "v2")


def test_a_rollback_to_what_does_not_load_answers_with_the_newer_one_rather_than_never(registry):
    loads = Loads()
    first = publish(registry, "v1")
    publish(registry, "v2")
    engine = engine_on(registry, loads)
    assert engine.version(10) == "v2"
    loads.gate.clear()
    registry.rollback()
    (registry.path_of(first) / "model.safetensors").unlink()
    answered: list[str] = []
    asking = threading.Thread(target=lambda: answered.append(engine.version(10)))
    asking.start()
    loads.gate.set()
    asking.join(10)
    assert answered == ["v2"]
    wait_for(lambda: "missing" in str(engine.models.not_loaded.error))


def test_the_latest_of_several_publishes_serves(registry):
    loads = Loads()
    engine = engine_on(registry, loads)
    assert engine.version(10) == "base"
    loads.gate.clear()
    for name in ("v1", "broken-2", "v3"):
        publish(registry, name)
        assert engine.version() == "base"
    loads.gate.set()
    wait_for(lambda: engine.version() == "v3")
    assert engine.models.not_loaded is None


def test_a_damaged_pointer_changes_nothing(registry):
    engine = engine_on(registry, Loads())
    publish(registry, "v1")
    wait_for(lambda: engine.version(10) == "v1")
    kept = (registry.folder / POINTER).read_bytes()
    (registry.folder / POINTER).write_text("{")
    wait_for(lambda: engine.models.not_loaded)
    assert engine.version() == "v1"
    assert "not readable" in str(engine.models.not_loaded.error)
    with pytest.raises(InputError, match="not readable"):
        Champion(registry.folder, None, Loads())
    (registry.folder / POINTER).write_bytes(kept)
    publish(registry, "v2")
    wait_for(lambda: engine.version() == "v2")


def test_a_champion_that_never_loaded_is_healed_by_a_rollback(registry):
    publish(registry, "v1")
    publish(registry, "broken")
    engine = engine_on(registry, Loads())
    wait_for(lambda: engine.state == "failed")
    registry.rollback()
    assert engine.version(10) == "v1"
    assert engine.state == "ready"


def test_looking_reads_no_file_where_nothing_changes(registry, monkeypatch):
    publish(registry, "v1")
    engine = engine_on(registry, Loads())
    engine.version(10)
    read: list[object] = []
    for name in ("io.open", "builtins.open", "os.open", "os.scandir", "os.listdir"):
        monkeypatch.setattr(name, lambda path, *_, **__: read.append(path))
    for _ in range(100):
        engine.version()  # a stat each
    monkeypatch.undo()
    assert read == []


def test_every_route_tells_the_version_and_the_trouble(make, registry, tmp_path):  # noqa: F811
    client = make(load=lambda: Named(None), given={"load_version": Loads()}, versions=registry.folder)
    tasks = [pair_task(tmp_path, 1)]

    def told():
        return {
            client.post("/setup", json={}).get_json()["model_version"],
            *client.get("/versions").get_json()["versions"],
            predict(client, tasks).get_json()["results"][0]["model_version"],
            client.get("/health").get_json()["version"],
            *re.findall(r'model_info{version="(.*?)"} 1.0', client.get("/metrics").get_data(as_text=True)),
        }

    assert told() == {"base"}
    publish(registry, "v1")
    wait_for(lambda: client.get("/health").get_json()["version"] == "v1")
    assert told() == {"v1"}
    name = publish(registry, "broken")
    wait_for(lambda: "problem" in client.get("/health").get_json())
    assert client.get("/health").get_json()["problem"] == f"{name} does not load: broken is cut short"
    assert told() == {"v1"}
    assert 'switches_total{outcome="failed"} 1.0' in client.get("/metrics").get_data(as_text=True)
    registry.rollback()
    assert told() == {"v1"}
    registry.rollback()
    assert told() == {"base"}


def test_the_real_model_follows_a_registry(registry, tmp_path):
    """Two versions of the embedded checkpoint that differ in a bit, through `CoSegmenter.from_checkpoint`."""
    weights = EMBEDDED / "model.safetensors"
    if not weights.exists():
        pytest.skip(f"{EMBEDDED} has no weights: train a checkpoint first")
    from backend.services import champion_of
    from backend.settings import Settings

    folder = tmp_path / "changed"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((EMBEDDED / name).read_bytes())
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    champion = champion_of(Settings(versions=registry.folder, device="cpu"))
    engine = Engine(champion.load, Metrics(), follow=champion.follow)
    before = engine.version(60)
    version = registry.add(folder, kind="checkpoint", preset="calico-tiny")
    registry.publish(version.id, force_reason="a test")
    wait_for(lambda: engine.version() != before, 60)
    assert engine.version() == champion.version_of_files()
    registry.rollback()
    assert engine.version(60) == before


def test_a_version_is_warmed_up_and_in_the_settings_numbers_before_it_serves(monkeypatch):
    from backend.services import champion_of
    from backend.settings import Settings
    from calico.inference.segmenter import CoSegmenter

    done = []

    class Fake:
        def warm_up(self):
            done.append("warm")

    def from_checkpoint(folder, device, *, options):
        done.append((folder, device, options.llm_bits, options.dtype))
        return Fake()

    monkeypatch.setattr(CoSegmenter, "from_checkpoint", from_checkpoint)
    champion_of(Settings(device="cpu", llm_bits=8, dtype="bfloat16")).load()
    assert done == [(None, "cpu", 8, "bfloat16"), "warm"]
