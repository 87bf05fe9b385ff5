"""docs/full_size.md walked command by command, with small models in their owners' formats in the places of the hub's.

Every line of its shell blocks is run as it stands there, but for sizes, lengths and the device; what no machine of ours
could run is named. Slow, so skipped unless CALICO_REQUIRE names `kinds`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from foreign_weights import (
    GLAMM_TOKENS,
    blip2,
    dinov2,
    glamm_weights,
    instructblip,
    llama,
    llama_tokenizer,
    sam,
    small_config,
)
from micro import leave_out_curves, shorten_answers
from PIL import Image
from safetensors.torch import save_file
from test_docs import blocks, text_of
from test_finetune import write
from test_mixedparts_build import KINDS, write_source
from test_real_kinds_together import require_kinds
from test_weights import released

from backend.services import champion_of
from backend.settings import Settings
from calico.checkpoints.registry import Registry
from calico.conversion import sources
from calico.drawings import draw
from calico.model.config import PRESETS, CalicoConfig
from calico.snapshots.splits import Shares
from calico.training import challenge, recipe
from calico.training.recipe import PAPER_BATCH
from scripts import finetune, weights

PAGE = "docs/full_size.md"
LINES = [line for block in blocks(text_of(PAGE), "sh") for line in block.replace("\\\n", " ").splitlines()]
BITS = "4" if find_spec("bitsandbytes") else "8"  # of which the second needs nothing else
NOT_RUN = {"git": "asks the hub", "benchmarks/gpu.sh": "tests/test_real_kinds_together.py runs it dry"}
SHORTER = {  # what makes a line of the page small enough, by the words that it begins with
    "calico benchmark model": ["--preset", "micro", "--device", "cpu", "--groups", "1"],
    "calico benchmark train": ["--preset", "micro", "--steps", "1"],
    "calico finetune": ["--steps", "1", "--base-groups", "1"],
}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the page takes for granted, and small models where it names the hub's."""
    hub = tmp_path / "hub"
    models = {"instructblip": instructblip(), "blip2": blip2(), "dinov2": dinov2(), "sam": sam()}
    for name, model in models.items():
        model.save_pretrained(hub / name)
    llama_tokenizer("[PAD]").save(str(hub / "instructblip" / "tokenizer.json"))
    plain = llama_tokenizer()
    llama(plain.get_vocab_size()).save_pretrained(hub / "llama")
    plain.save(str(hub / "llama" / "tokenizer.json"))
    (hub / "glamm").mkdir()
    glamm = {key: tensor.contiguous() for key, tensor in glamm_weights().items()}
    save_file(glamm, hub / "glamm" / "model.safetensors")
    llama_tokenizer(*GLAMM_TOKENS).save(str(hub / "glamm" / "tokenizer.json"))
    places = {
        "Salesforce/instructblip-vicuna-7b": "instructblip", "Salesforce/blip2-flan-t5-xl": "blip2",
        "MBZUAI/GLaMM-FullScope": "glamm", "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "llama",
        "facebook/dinov2-with-registers-base": "dinov2", "facebook/dinov2-with-registers-small": "dinov2",
        "facebook/sam-vit-base": "sam", "PLAN-Lab/CALICO": "released", "SOURCE": "instructblip",
    }  # fmt: skip
    real = sources.open_source

    def opened(where: str, **options: Any) -> sources.WeightSource:
        return real(str(hub / places[where.removesuffix("@COMMIT")]), **options)

    monkeypatch.setattr(sources, "open_source", opened)
    monkeypatch.setitem(PRESETS, "calico-7b", small_config)
    smaller = dataclasses.replace(small_config(), preset="calico-1b", fresh=PRESETS["calico-1b"]().fresh)
    monkeypatch.setitem(PRESETS, "calico-1b", lambda: smaller)
    small_batch = dataclasses.replace(PAPER_BATCH, num_images=4, num_groups=6, num_points=2, num_boxes=2)
    for name, value in {"PAPER_BATCH": small_batch, "PAPER_PARTS": 1, "NUM_WORKERS": 0}.items():
        monkeypatch.setattr(recipe, name, value)
    monkeypatch.setattr(challenge, "NUM_FOLDS", 2)
    shorten_answers(monkeypatch)
    leave_out_curves(monkeypatch)

    work = tmp_path / "work"
    (work / "photos").mkdir(parents=True)
    for split, start, number in (("train", 0, 12), ("test", 100, 8)):
        write_source(work, "paco", split, number, start, KINDS)
        (work / f"paco-{split}.json").rename(work / f"paco_{split}.json")
    for number, name in enumerate(("chair", "stool")):
        Image.fromarray(draw(number, size_hw=(96, 128), object_name=name).image).save(work / f"{name}.jpg")
    write(work / "feedback", range(3), Shares(0.0, 0.4))
    (work / "map.json").write_text(next(iter(blocks(text_of(PAGE), "json"))))
    monkeypatch.chdir(work)
    return work


def words_of(line: str) -> tuple[dict[str, str], list[str]]:
    """Variables that a line sets, and its words."""
    line = line.replace("--bits 4", f"--bits {BITS}").replace("CALICO_LLM_BITS=4", f"CALICO_LLM_BITS={BITS}")
    words = shlex.split(line, comments=True)
    number = next((k for k, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word)), len(words))
    return dict(word.partition("=")[::2] for word in words[:number]), words[number:]


def run_verb(words: list[str]) -> int:
    line = " ".join(words)
    more = next((extra for begin, extra in SHORTER.items() if line.startswith(begin)), [])
    verb, *rest = words[1:]
    code: int = import_module(f"scripts.{verb}").main([*rest, *more])
    return code


def serve(variables: dict[str, str]) -> int:
    """What `python -m backend` loads before it answers."""
    settings = Settings.from_environment(variables)
    segmenter = champion_of(settings).load()
    return 0 if segmenter.version.startswith("calico-7b") else 1


def launch(words: list[str]) -> int:
    """Several processes are tests/test_real_kinds_together.py's; here the module and its options."""
    rest = words[words.index("-m") + 2 :]
    finetune.build_parser().parse_args(rest)
    return 0


def test_every_line_of_the_page_runs(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_kinds()
    torch.set_num_threads(1)
    ran = []
    for line in LINES:
        variables, words = words_of(line)
        if not words or words[0] in NOT_RUN:
            continue
        if line.startswith("calico weights convert"):  # a released CALICO is made of an assembled one
            released(house, house.parent / "hub" / "released", house / "calico-7b")
        calls: dict[str, Callable[[], int]] = {
            "calico": partial(run_verb, words),
            "python": partial(serve, variables),
            "accelerate": partial(launch, words),
        }
        assert calls[words[0]]() == 0, (line, capsys.readouterr())
        ran.append(" ".join(words[:3]))
    assert len(ran) >= 15
    assert CalicoConfig.from_file(house / "calico-1b" / "config.json").new_tokens
    assert [path.name for path in sorted((house / "out").iterdir())]
    registry = Registry(house / "registry")
    assert {version.kind for version in registry.versions()} == {"checkpoint", "adapter"}
    assert json.loads((house / "train.json").read_text())["llm_bits"] == int(BITS)


def test_what_is_not_run_is_there() -> None:
    commands = {words[0] for _, words in map(words_of, LINES) if words}
    assert commands == {"calico", "python", "accelerate", *NOT_RUN}
    assert os.access(ROOT / "benchmarks" / "gpu.sh", os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / "benchmarks" / "gpu.sh")], check=False).returncode == 0


def test_a_base_without_its_data_is_refused_as_the_page_says(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assemble = next(words_of(line)[1] for line in LINES if line.startswith("calico weights assemble --out calico-7b"))
    assert weights.main(assemble[2:]) == 0
    for words in (words_of(line)[1] for line in LINES if line.startswith("calico versions")):
        assert run_verb(words) == 0
    plain = ["--data", "feedback/", "--registry", "registry/", "--out", "runs/plain", "--steps", "1"]
    assert finetune.main(plain) == 2
    assert "--replay" in capsys.readouterr().err
