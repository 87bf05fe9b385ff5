"""A corpus under kills: synthetic tasks, a stand-in for the model, kill -9 at random, and what is there afterwards.

python -m benchmarks.corpus FOLDER --tasks 100000 --kills 5
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from backend.codecs.config import read_config
from backend.corpus.output import Output
from backend.corpus.plan import plan_of
from backend.corpus.run import Summary, ThisProcess, note_of, run_corpus
from backend.corpus.stages import Stages
from benchmarks.cluster import Waiting
from calico.errors import CalicoError

CONFIG = """<View><Image name="img" valueList="$images"/><BrushLabels name="brush" toName="img">
<Label value="object"/><Label value="common part"/><Label value="unique part"/></BrushLabels>
<TextArea name="name" toName="img" perRegion="true"/></View>"""
SHARD_SIZE = 256
SIDE = 16


class Pictures:
    """Stands where media do: one of a few pictures by its name."""

    def __init__(self, folder: Path) -> None:
        self._images = {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}

    def load(self, source: str, *, task: int | None = None) -> np.ndarray:
        return self._images[source]


def write_tasks(folder: Path, num_tasks: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"{k}.png" for k in range(8)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / name)
    path = folder / "tasks.jsonl"
    with open(path, "w") as file:
        for number in range(num_tasks):
            images = [names[number % 8], names[(number // 8 + number + 1) % 8]]
            file.write(json.dumps({"id": number, "data": {"images": images}}) + "\n")
    return path


def run(folder: Path) -> Summary:
    """Goes on where an earlier one was killed."""
    plan = plan_of(folder / "tasks.jsonl", SHARD_SIZE)
    output = Output(folder / "out")
    output.open(note_of(plan, CONFIG, Waiting.version, SHARD_SIZE))
    output.drop_unfinished()
    stages = Stages(Waiting(0.0, 0.0), Pictures(folder), read_config(CONFIG))
    return run_corpus(plan, output, ThisProcess(stages))


def measure(folder: Path, num_tasks: int, num_kills: int, seed: int) -> dict[str, Any]:
    """Kills at random; counts lines and memory. Raises CalicoError for a wrong line."""
    write_tasks(folder, num_tasks)
    rng, done_at_kill, memory = random.Random(seed), [], []
    began = time.monotonic()
    for number in range(num_kills + 1):
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.corpus", str(folder), "--run"])
        target = num_tasks if number == num_kills else num_tasks * (number + rng.random()) / (num_kills + 1)
        while process.poll() is None:
            try:
                memory.append(psutil.Process(process.pid).memory_info().rss)
            except psutil.Error:
                break
            if number < num_kills and _num_done(folder) >= target:
                time.sleep(rng.random() / 2)  # anywhere within a shard
                process.kill()
                done_at_kill.append(_num_done(folder))
                break
            time.sleep(0.2)
        process.wait()
    counts: Counter[int] = Counter()
    for path in (folder / "out" / "predictions").glob("*.jsonl"):
        with open(path) as file:
            for line in file:
                task = json.loads(line)
                if len(task["predictions"]) != 1:
                    raise CalicoError(f"task {task['id']} has {len(task['predictions'])} predictions")
                counts[task["id"]] += 1
    half = len(memory) // 2
    return {
        "tasks": num_tasks,
        "killed_after": done_at_kill,
        "lines": sum(counts.values()),
        "missing": sum(number not in counts for number in range(num_tasks)),
        "twice": sum(count > 1 for count in counts.values()),
        "leftovers": sum(1 for _ in (folder / "out" / "predictions").glob(".*")),
        "peak_mb_first_half": round(max(memory[:half]) / 1e6),
        "peak_mb_second_half": round(max(memory[half:]) / 1e6),
        "seconds": round(time.monotonic() - began, 1),
    }


def _num_done(folder: Path) -> int:
    return SHARD_SIZE * sum(1 for _ in (folder / "out" / "predictions").glob("*.jsonl"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="store_true", help="one start of the run itself")
    args = parser.parse_args(argv)
    if args.run:
        print(run(args.folder).text())
        return 0
    print(json.dumps(measure(args.folder, args.tasks, args.kills, args.seed), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
