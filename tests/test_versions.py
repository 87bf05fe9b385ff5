"""The gate on synthetic scores; the registry's folder, its one pointer, and what a kill leaves of both."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico import files as files_module
from calico.checkpoints import registry as registry_module
from calico.checkpoints.gate import Decision, Scores, Verdict, decide, folds, num_needed, paired_interval
from calico.checkpoints.registry import Refused, Registry, Version
from calico.errors import InputError
from scripts import versions as verb

BASE = {f"base {i}": 0.7 for i in range(50)}


def scores_of(differences: list[float], *, base_drop: float = 0.0, crossed: bool = False) -> Scores:
    champion = {f"group {i}": 0.4 for i in range(len(differences))}
    challenger = {f"group {i}": 0.4 + d for i, d in enumerate(differences)}
    return Scores("champion", champion, challenger, BASE, {g: s - base_drop for g, s in BASE.items()}, crossed)


def noisy(mean: float, n: int, *, sd: float = 0.1, seed: int = 0) -> list[float]:
    values = np.random.default_rng(seed).normal(0, sd, n)
    return list(np.clip(values - values.mean() + mean, -0.4, 0.6))


# -- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "verdict", "says"),
    [
        (scores_of(noisy(0.08, 30)), Verdict.PUBLISH, "better"),
        (scores_of(noisy(-0.08, 30)), Verdict.REFUSE, "worse"),
        (scores_of(noisy(-0.005, 30)), Verdict.REFUSE, "not better"),
        (scores_of([0.0] * 30), Verdict.REFUSE, "not better"),
        (scores_of(noisy(0.08, 30), base_drop=0.03), Verdict.REFUSE, "forgets"),
        (scores_of(noisy(0.08, 30), base_drop=0.019), Verdict.PUBLISH, "better"),
        (scores_of(noisy(0.08, 30), base_drop=-0.1), Verdict.PUBLISH, "better"),
        (scores_of(noisy(0.08, 12)), Verdict.CROSS_VALIDATE, "12 test groups"),
        (scores_of([0.3] * 3), Verdict.CROSS_VALIDATE, "3 test groups"),
        (scores_of(noisy(0.15, 12), crossed=True), Verdict.PUBLISH, "better"),
        (scores_of(noisy(0.02, 12), crossed=True), Verdict.NOT_ENOUGH_EVIDENCE, "not enough evidence: 12 groups"),
        (scores_of(noisy(0.01, 30)), Verdict.NOT_ENOUGH_EVIDENCE, "not enough evidence: 30 groups"),
        (scores_of([0.3, 0.2, 0.1], crossed=True), Verdict.NOT_ENOUGH_EVIDENCE, "3 groups, about 5 needed"),
        (scores_of([], crossed=True), Verdict.NOT_ENOUGH_EVIDENCE, "0 groups, about 5 needed"),
        (scores_of([0.3], base_drop=0.5), Verdict.REFUSE, "forgets"),
    ],
)
def test_the_gate(scores: Scores, verdict: Verdict, says: str) -> None:
    decision = decide(scores)
    assert (decision.verdict, says in decision.reason) == (verdict, True), decision.reason
    json.dumps(decision.as_json(), allow_nan=False)


def test_about_m_needed_is_about_right() -> None:
    """With about m groups the same effect passes as often as not; with twice as many, nearly always."""
    told = decide(scores_of([0.12, -0.08] * 12))
    assert told.num_needed == 71  # (1.645 * 0.102 / 0.02)^2
    passes = [
        decide(scores_of(list(np.random.default_rng(s).normal(0.02, 0.1, 2 * told.num_needed)))).verdict
        for s in range(12)
    ]
    assert passes.count(Verdict.PUBLISH) >= 7


def test_a_challenger_that_is_no_better_seldom_passes() -> None:
    for n in (8, 25):
        passed = 0
        for seed in range(60):
            drawn = np.random.default_rng([n, seed]).normal(0.0, 0.1, n)
            passed += decide(scores_of(list(drawn), crossed=True)).verdict is Verdict.PUBLISH
        assert passed <= 8  # 5 % of 60 are 3; the chance of more than 8 is under 1 %


def test_the_interval_covers_and_does_not_hang_on_order() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(80):
        drawn = rng.normal(0.3, 0.1, 10)
        low, high = paired_interval(drawn)
        covered += low <= 0.3 <= high
    assert 64 <= covered <= 79  # 90 % of 80 are 72
    assert paired_interval(drawn) == paired_interval(drawn[::-1])


def test_num_needed_has_no_answer_without_an_effect() -> None:
    assert num_needed(np.array([-0.1, 0.0, 0.1])) is None
    assert num_needed(np.zeros(0)) is None
    assert num_needed(np.array([0.3])) == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test_challenger": {"other": 0.5}}, "one side only"),
        ({"base_challenger": dict.fromkeys(BASE, float("nan"))}, "number from 0 to 1"),
        ({"base_champion": {}, "base_challenger": {}}, "no base test groups"),
        ({"base_challenger": dict.fromkeys(BASE, None)}, "got|has None"),
    ],
)
def test_scores_that_prove_nothing_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        decide(Scores.from_json(asdict(scores_of([0.1] * 30)) | change))


def test_folds_are_even_and_stable() -> None:
    found = folds(f"group {i}" for i in range(23))
    assert sorted(list(found.values()).count(k) for k in range(5)) == [4, 4, 5, 5, 5]
    assert folds(reversed(found)) == found


# -- the registry -----------------------------------------------------------------------------------------------------


def made(folder: Path, content: str, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.safetensors").write_text(content)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    return folder


def add(registry: Registry, tmp_path: Path, content: str, **files: str) -> Version:
    folder = made(tmp_path / "made" / content, content, **files)
    return registry.add(folder, kind="adapter", preset="calico-tiny", parent="calico-tiny-00000000", snapshot="ab12")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def better(champion: str) -> Decision:
    return Decision(Verdict.PUBLISH, "better: +0.08", champion, 30)


def test_equal_content_is_one_version(registry: Registry, tmp_path: Path) -> None:
    first, again, other = (add(registry, tmp_path, content) for content in ("a", "a", "b"))
    assert first == again
    assert registry.ids() == sorted([first.id, other.id])
    assert first.id.startswith("calico-tiny-")
    assert registry.get(first.id[:-2]) == first
    assert (registry.path_of(first) / "adapter.safetensors").read_text() == "a"
    assert (first.snapshot, first.parent) == ("ab12", "calico-tiny-00000000")
    with pytest.raises(InputError, match="2 versions start with it"):
        registry.get("calico")
    with pytest.raises(InputError, match="no one version 'x'"):
        registry.get("x")


def test_what_may_hold_code_or_is_no_version_is_not_taken(registry: Registry, tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "a")
    (folder / "optimizer.pt").write_text("pickle")
    with pytest.raises(InputError, match="may hold code"):
        registry.add(folder, kind="adapter", preset="calico-tiny")
    with pytest.raises(InputError, match=r"no \.safetensors"):
        registry.add(tmp_path / "nothing", kind="adapter", preset="calico-tiny")
    with pytest.raises(InputError, match="preset"):
        registry.add(made(tmp_path / "n", "a"), kind="adapter", preset="../up")


@pytest.mark.parametrize(
    "name",
    ["STATE.PT", "state.pickle", "model.pyc", "kernels.so", "rows.npy", "sub/run.sh", "weights", "card.Json.exe"],
)
def test_only_files_without_code_are_taken(registry: Registry, tmp_path: Path, name: str) -> None:
    folder = made(tmp_path / "m", "a", scores="{}")
    for harmless in ("curves.PNG", "README.md", "LICENSE.txt", "model.safetensors.index.json"):
        (folder / harmless).write_text("x")
    assert len(registry.add(folder, kind="adapter", preset="calico-tiny").files) == 6
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(InputError, match=rf"{name}: may hold code and is not taken; .*\.json, .*\.safetensors"):
        registry.add(folder, kind="adapter", preset="calico-tiny")
    assert len(registry.ids()) == 1


def test_unfinished_writes_are_no_part_of_a_version(registry: Registry, tmp_path: Path) -> None:
    folder = made(tmp_path / "m", "a")
    clean = registry.add(folder, kind="adapter", preset="calico-tiny")
    made(folder / ".adapter.safetensors.new", "half")
    (folder / ".adapter.json.new").write_text("{")
    (folder / ".link").symlink_to(folder / "adapter.safetensors")
    assert registry.add(folder, kind="adapter", preset="calico-tiny") == clean
    other = registry.add(folder, kind="adapter", preset="calico-tiny", parent="another")
    assert [path.name for path in registry.path_of(other).iterdir() if path.name != "version.json"] == list(clean.files)
    (registry.path_of(other) / ".stray").write_text("x")
    with pytest.raises(InputError, match=r"\.stray: not of it"):
        registry.verify(other)


def test_publish_and_rollback_go_step_by_step(registry: Registry, tmp_path: Path) -> None:
    assert registry.current() is None
    with pytest.raises(InputError, match="nothing to roll back"):
        registry.rollback()
    a, b, c = (add(registry, tmp_path, content).id for content in "abc")
    registry.publish(a, decision=better("the embedded one"))
    registry.publish(b, decision=better(a))
    registry.publish(c, decision=better(b))
    assert registry.current() == c
    assert [registry.rollback().version for _ in range(3)] == [b, a, ""]
    assert registry.current() is None
    registry.publish(c, force_reason="the demo needs it")
    assert registry.rollback(b, reason="as it was").version == b
    assert [e.action for e in registry.history()] == ["publish"] * 3 + ["rollback"] * 3 + ["force", "rollback"]
    forced = registry.history()[-2]
    assert (forced.reason, forced.before, forced.decision) == ("the demo needs it", None, None)
    with pytest.raises(InputError, match="never published"):
        registry.rollback(add(registry, tmp_path, "d").id)


def test_a_version_that_was_current_twice_is_left_one_step_at_a_time(registry: Registry, tmp_path: Path) -> None:
    a, b, c = (add(registry, tmp_path, content).id for content in "abc")
    for name in (a, b, a, c):
        registry.publish(name, force_reason="a test")
    assert [registry.rollback().version for _ in range(4)] == [a, b, a, ""]
    for name in (a, b, a, c):
        registry.publish(name, force_reason="a test")
    assert registry.rollback(a).version == a
    assert [registry.rollback().version for _ in range(3)] == [b, a, ""]


def test_scores_against_a_version_that_was_rolled_back_do_not_count(registry: Registry, tmp_path: Path) -> None:
    a, b = (add(registry, tmp_path, content).id for content in "ab")
    registry.publish(a, decision=better("calico-tiny-00000000"))
    registry.rollback()
    with pytest.raises(Refused, match=rf"compared with {a}, but the embedded checkpoint serves now; compare again"):
        registry.publish(b, decision=better(a))
    assert registry.publish(b, decision=better("calico-tiny-00000000")).before is None


def test_the_gate_stands_before_publish(registry: Registry, tmp_path: Path) -> None:
    a, b = (add(registry, tmp_path, content).id for content in "ab")
    with pytest.raises(Refused, match="no scores"):
        registry.publish(a)
    with pytest.raises(Refused, match="worse"):
        registry.publish(a, decision=Decision(Verdict.REFUSE, "worse: -0.1", "x", 30))
    with pytest.raises(InputError, match="--reason"):
        registry.publish(a, force_reason="  ")
    assert registry.current() is None
    registry.publish(a, decision=better("x"))
    with pytest.raises(Refused, match="compare again"):
        registry.publish(b, decision=better("x"))
    with pytest.raises(InputError, match="already"):
        registry.publish(a, decision=better(a))


def test_a_changed_version_is_neither_published_nor_rolled_back_to(registry: Registry, tmp_path: Path) -> None:
    a, b = (add(registry, tmp_path, content).id for content in "ab")
    registry.publish(a, decision=better("x"))
    registry.publish(b, decision=better(a))
    weights = registry.path_of(a) / "adapter.safetensors"
    weights.write_text("other")
    with pytest.raises(InputError, match="changed"):
        registry.rollback()
    weights.unlink()
    with pytest.raises(InputError, match="missing"):
        registry.verify(registry.get(a))
    assert registry.current() == b


def test_a_kill_at_any_step_leaves_a_whole_registry(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before each sync and each rename of add and publish in turn; afterwards the same call succeeds."""
    a = add(registry, tmp_path, "a").id
    registry.publish(a, decision=better("x"))
    num_killed = 0
    for step in range(40):
        calls = iter(range(1000))

        def dying(path: Path, calls: Any = calls, step: int = step) -> None:
            if next(calls) == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            for module in (registry_module, files_module):
                patch.setattr(module, "sync", dying)
            try:
                new = add(registry, tmp_path, f"new {step}").id
                registry.publish(new, decision=better(str(registry.current())))
            except KeyboardInterrupt:
                num_killed += 1
        for version in registry.versions():
            registry.verify(version)
        current = registry.current()
        assert current in registry.ids()
        if step >= num_killed:
            break
    assert num_killed >= 5
    assert not [p for p in registry.folder.iterdir() if p.name.startswith(".incoming")]


def _publish_one(folder: Path, name: str) -> None:
    Registry(folder).publish(name, force_reason=name)


def test_publishes_at_one_time_are_all_recorded(registry: Registry, tmp_path: Path) -> None:
    names = [add(registry, tmp_path, str(i)).id for i in range(4)]
    processes = [
        multiprocessing.get_context("fork").Process(target=_publish_one, args=(registry.folder, n)) for n in names
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    history = registry.history()
    assert sorted(event.version for event in history) == sorted(names)
    assert [e.before for e in history] == [None, *(e.version for e in history[:-1])]


# -- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb_lists_publishes_and_rolls_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--registry", str(tmp_path / "r")]
    good, bad = json.dumps(asdict(scores_of(noisy(0.1, 30)))), json.dumps(asdict(scores_of([0.2] * 3, crossed=True)))

    def take_in(content: str, scores: str) -> str:
        folder = made(tmp_path / content, content, scores=scores)
        assert verb.main(["add", str(folder), "--kind", "adapter", "--preset", "calico-tiny", *where]) == 0
        return capsys.readouterr().out.strip()

    a, b = take_in("a", good), take_in("b", bad)
    assert verb.main(["publish", a, *where]) == 0
    assert "better" in capsys.readouterr().out
    assert verb.main(["publish", b, "--json", str(tmp_path / "no.json"), *where]) == 1
    assert "not enough evidence: 3 groups, about 5 needed" in capsys.readouterr().err
    assert json.loads((tmp_path / "no.json").read_text())["decision"]["num_groups"] == 3
    assert verb.main(["publish", b, "--force", *where]) == 2
    assert verb.main(["publish", b, "--force", "--reason", "for the demo", *where]) == 0
    assert verb.main(["show", b, *where]) == 0
    assert '"reason": "for the demo"' in capsys.readouterr().out
    assert verb.main(["rollback", *where]) == 0
    assert verb.main(["list", "--json", str(tmp_path / "list.json"), *where]) == 0
    assert f"* {a}" in capsys.readouterr().out
    assert json.loads((tmp_path / "list.json").read_text())["current"] == a
    assert verb.main(["publish", "nothing", *where]) == 2
