"""Start a real Label Studio with groups of drawn objects, pre-annotated by CALICO, and pictures to teach it with.

    calico demo [--stop | --clean | --install] [--port 8080] [--backend-port 9090]

Runs until ctrl-C, which stops all it started. The first start installs Label Studio in its own environment below
`.demo`; CALICO_LABEL_STUDIO names a `label-studio` executable to use instead. While the demo is ready,
`.demo/state.json` holds its address, account and projects.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType

import numpy as np

from backend.demo.show import Demo, DemoProject, Note
from backend.demo.state import FOLDER, State
from scripts import _cli

SEED, SIZE = 2, 512  # of the drawings, held out; SIZE is the longer side in pixels: the editor enlarges smaller ones
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUIET_S = 10.0  # between notes where nobody watches a spinner


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--stop", action="store_true", help="stop the demo that runs, and do nothing else")
    action.add_argument("--clean", action="store_true", help="stop it and remove all that it made, Label Studio too")
    action.add_argument("--install", action="store_true", help="only install Label Studio")
    parser.add_argument("--port", type=int, default=8080, help="Label Studio's port, or the next free one (8080)")
    parser.add_argument(
        "--backend-port", type=int, default=9090, help="the backend's port, or the next free one (9090)"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)  # for tests
    return parser


@contextmanager
def step(title: str) -> Iterator[Note]:
    """A spinner with notes on a terminal, plain lines elsewhere; the time it took in the end."""
    console = _cli.console()
    started = last_note_at = time.monotonic()

    def elapsed() -> str:
        return f"{time.monotonic() - started:.0f} s"

    if console.is_terminal:
        with console.status(title) as status:
            yield lambda text: status.update(f"{title}: {text} ({elapsed()})")
    else:
        console.print(f"  {title} ...")

        def note(text: str) -> None:
            nonlocal last_note_at
            if time.monotonic() - last_note_at > QUIET_S:
                last_note_at = time.monotonic()
                console.print(f"    {text} ({elapsed()})")

        yield note
    console.print(f"[green]✓[/] {title} ({elapsed()})")


def make_groups(project: DemoProject) -> Sequence[Sequence[np.ndarray]]:
    from calico.drawings import draw
    from calico.images import load_image

    if not project.is_drawn:
        return [[load_image(EXAMPLES / name) for name in names] for names in project.groups]
    seeds = count(SEED * 1000 * project.group_size)
    return [
        [draw(next(seeds), size_hw=(SIZE, SIZE), object_name=name, difficulty="clean").image for name in names]
        for names in project.groups
    ]


def announce(state: State) -> None:
    console = _cli.console()
    console.print(f"\nReady: open [bold]{state.url}[/]", soft_wrap=True)
    console.print(f"  user       {state.user}\n  password   {state.password}")
    for number in state.project_ids:
        console.print(f"  label      {state.url}/projects/{number}/data?labeling=1", soft_wrap=True)
    console.print(f"  dashboard  {state.backend_url}/", soft_wrap=True)
    first = state.project_ids[0] if state.project_ids else 1
    console.print("\nIn another terminal, after `. .venv/bin/activate`:")
    for command in (
        f"calico project doctor --project {first}     # does everything work together?",
        f"calico export_coco parts.json --project {first} --predictions --no-images",
        f"calico feedback --project {first} --out snapshot --report   # after you have submitted a group or two",
    ):
        console.print(f"  {command}", soft_wrap=True)
    ending = "Ctrl-C stops Label Studio and the backend; `make demo` brings them back as they were."
    console.print(f"\n{ending}\n", soft_wrap=True)


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def handle(args: argparse.Namespace) -> dict[str, object] | None:
    demo = Demo(args.folder, step=step, groups=make_groups)
    if args.stop or args.clean:
        stopped = demo.stop()
        _cli.console().print("The demo has stopped." if stopped else "No demo was running.")
        if args.clean:
            demo.clean()
        return {"stopped": stopped}
    if args.install:
        demo.install()
        return {"label_studio": str(demo.executable)}
    for sign in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, interrupt)
    started = time.monotonic()
    try:
        with demo.running(port=args.port, backend_port=args.backend_port) as state:
            seconds = round(time.monotonic() - started, 1)
            announce(state)
            try:
                while True:
                    demo.check_alive()
                    time.sleep(0.5)
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second ctrl-C does not interrupt the stopping
                _cli.console().print("Stopping ...")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return {"url": state.url, "project_ids": state.project_ids, "seconds_until_ready": seconds}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
