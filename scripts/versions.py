"""List, show, publish and roll back versions of the model; publishing asks the gate.

    calico versions (list | show | add | publish | rollback) --registry DIR

`publish VERSION` reads the scores that its finetune wrote (scores.json beside the version, or --scores FILE): the
challenger must be better on the corrections and not forget. `--force --reason TEXT` goes past the gate, on record.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=text, description=text, parents=[_cli.shared_options()])
        parser.add_argument(
            "--registry", type=Path, metavar="DIR", default=Path("registry"), help="its folder (registry)"
        )
        return parser

    action("list", "all versions, the current one marked")
    action("show", "one version: origin, metrics, files proved").add_argument("version")
    add = action("add", "take a folder of files in as a version, without publishing it")
    add.add_argument("source", type=Path, metavar="FOLDER")
    add.add_argument("--kind", choices=("adapter", "checkpoint"), required=True)
    add.add_argument("--preset", required=True, metavar="NAME", help="as in the config, e.g. calico-tiny")
    add.add_argument("--parent", metavar="VERSION", help="what it was made from")
    publish = action("publish", "make a version the current one, if the gate lets it through")
    publish.add_argument("version")
    publish.add_argument("--scores", type=Path, metavar="FILE", help="per-group scores of both sides")
    publish.add_argument("--force", action="store_true", help="past the gate")
    publish.add_argument(
        "--base-drop", type=float, default=0.02, metavar="DROP", help="what the base test may lose, 0 to 1 (0.02)"
    )
    publish.add_argument("--reason", metavar="TEXT", help="why, for the record")
    rollback = action("rollback", "back to the version before the current one, or to another that was published")
    rollback.add_argument("version", nargs="?")
    rollback.add_argument("--reason", metavar="TEXT", default="", help="why, for the record")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.registry import Registry

    report = ACTIONS[args.action](Registry(args.registry), args)
    return {"command": args.command, **report}


def list_versions(registry: Any, args: argparse.Namespace) -> dict[str, Any]:
    current, versions = registry.current(), registry.versions()
    for version in versions:
        mark = "*" if version.id == current else " "
        print(f"{mark} {version.id}  {version.kind:<10}  {version.created_at}  from {version.parent or '-'}")
    if current is None:
        print("the embedded checkpoint is current")
    history = [asdict(event) for event in registry.history()]
    return {"current": current, "versions": [asdict(version) for version in versions], "history": history}


def show(registry: Any, args: argparse.Namespace) -> dict[str, Any]:
    version = registry.get(args.version)
    registry.verify(version)
    events = [asdict(event) for event in registry.history() if version.id in (event.version, event.before)]
    print(json.dumps({**asdict(version), "events": events}, indent=2, ensure_ascii=False))
    return {"version": asdict(version), "events": events}


def add(registry: Any, args: argparse.Namespace) -> dict[str, Any]:
    version = registry.add(args.source, kind=args.kind, preset=args.preset, parent=args.parent, command=args.command)
    print(version.id)
    return {"version": asdict(version)}


def publish(registry: Any, args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.gate import SCORES, decision_by
    from calico.checkpoints.registry import Refused

    if args.force and not (args.reason or "").strip():
        raise InputError("--force needs --reason TEXT, which is recorded")
    if args.reason and not args.force:
        raise InputError("--reason goes with --force; the gate gives its own reason")
    path = args.scores or registry.path_of(registry.get(args.version)) / SCORES
    decision = decision_by(path, args.base_drop)
    if decision is None and args.scores:
        raise InputError(f"{path}: is not there; name a file of scores")
    decision_row = None if decision is None else decision.as_json()
    try:
        event = registry.publish(args.version, decision=decision, force_reason=args.reason if args.force else None)
    except Refused as refusal:
        raise _cli.Failed(
            str(refusal), {"command": args.command, "published": False, "decision": decision_row}
        ) from None
    print(f"{event.version} is current ({event.action}: {event.reason})")
    return {"published": True, "event": asdict(event)}


def rollback(registry: Any, args: argparse.Namespace) -> dict[str, Any]:
    event = registry.rollback(args.version, reason=args.reason)
    print(f"{event.version or 'the embedded checkpoint'} is current (rollback from {event.before})")
    return {"event": asdict(event)}


ACTIONS = {"list": list_versions, "show": show, "add": add, "publish": publish, "rollback": rollback}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
