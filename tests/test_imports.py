"""The arrows between the packages: `scripts` -> `benchmarks` -> `backend` -> `calico`, `rendering` -> `calico`; no
torch where none is needed.

A string is an import too (`importlib.import_module("backend.http.app")`, `[python, "-m", "scripts.train"]`), so string
constants are looked at as well, docstrings excepted.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import calico

ROOT = Path(__file__).parents[1]
PACKAGES = ("calico", "backend", "benchmarks", "scripts", "rendering")

#: May not be named by the package: not in an import, not in a string.
FORBIDDEN = {
    "calico": {"backend", "benchmarks", "scripts", "rendering"},
    "backend": {"benchmarks", "scripts", "rendering"},
    "benchmarks": {"scripts", "rendering"},
    "scripts": {"rendering"},
    "rendering": {"backend", "benchmarks", "scripts"},
}

#: Blender is GPL: a tool of the renderer, which no other package names.
BLENDER = {"bpy", "mathutils", "bmesh"}

#: Outside packages that `calico` leaves to `backend` (or to nobody).
NO_HTTP = {"flask", "waitress", "httpx", "requests", "sqlalchemy", "label_studio_sdk", "label_studio_ml"}
UNSAFE = {"pickle", "dill", "cloudpickle", "shelve"}

#: Import no torch, by themselves or through what they import.
TORCH_FREE = (
    "errors", "values", "correspondence", "masks", "files", "inference.reconcile", "inference.options", "language",
    "metrics", "coco", "mixedparts", "snapshots", "checkpoints.fingerprint", "checkpoints.registry", "checkpoints.gate",
)  # fmt: skip

MODULE_PATH = re.compile(rf"(?:^|-m\s+)((?:{'|'.join(PACKAGES)})(?:\.\w*)*)(?=$|\s)")


def modules_of(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


ALL_MODULES = [path for package in PACKAGES for path in modules_of(package)]


def imports_in(tree: ast.AST, path: Path) -> set[str]:
    """Dotted names that a module imports; relative ones resolved."""
    package = path.with_suffix("").parts if path.name == "__init__.py" else path.with_suffix("").parts[:-1]
    package = tuple(part for part in package if part != "__init__")
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            source = ".".join(base + ([node.module] if node.module else []))
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def strings_in(tree: ast.AST) -> set[str]:
    """Module paths of our packages in string constants (and in the constant pieces of f-strings)."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        match
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        for match in MODULE_PATH.findall(node.value)
    }


def named_by(source: str, path: Path) -> set[str]:
    tree = ast.parse(source, str(path))
    return imports_in(tree, path) | strings_in(tree)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import backend.http.app", {"backend.http.app"}),
        ("from backend.http import app", {"backend.http.app"}),
        ("def f():\n    from scripts.train import main", {"scripts.train.main"}),
        ("from . import masks", {"calico.masks"}),
        ("from ..backend.http import app", {"backend.http.app"}),
        ("run([python, '-m', 'scripts.train'])", {"scripts.train"}),
        ("run('python -m backend --port 1')", {"backend"}),
        ("import_module(f'scripts.{verb}')", {"scripts."}),
        ("def f():\n    'like backend.http.app'", set()),
        ("message = 'the backend is away'", set()),
        ("import torch.backends.mkldnn", {"torch.backends.mkldnn"}),
    ],
)
def test_the_reader_finds_what_a_module_names(source: str, expected: set[str]) -> None:
    assert named_by(source, Path("calico/example.py")) == expected


def test_there_is_something_to_read() -> None:
    assert {path.parts[0] for path in ALL_MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", ALL_MODULES, ids=str)
def test_no_arrow_runs_back(path: Path) -> None:
    package = path.parts[0]
    named = named_by((ROOT / path).read_text(encoding="utf-8"), path)
    top = {name.partition(".")[0] for name in named}
    assert not top & FORBIDDEN.get(package, set()), f"{path} names what stands above it"
    assert not top & UNSAFE, f"{path}: no pickle, it runs code from files"
    assert package == "rendering" or not top & BLENDER, f"{path}: Blender is the renderer's tool alone"
    if package == "calico":
        assert not top & NO_HTTP, f"{path}: HTTP, databases and Label Studio are the backend's"
    if package == "scripts" and path.name != "__main__.py":  # which dispatches
        others = {name for name in named if name.startswith("scripts.")}
        assert all(name.startswith("scripts._cli") for name in others), f"{path} names another script: {others}"


def torch_free_modules() -> list[str]:
    found = []
    for name in TORCH_FREE:
        path = f"calico/{name.replace('.', '/')}"
        if (ROOT / f"{path}.py").exists():
            found.append(f"calico.{name}")
        found += [".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in modules_of(path)]
    return found


def test_values_language_and_metrics_import_no_torch() -> None:
    modules = torch_free_modules()
    assert {"calico.values", "calico.masks", "calico.inference.reconcile", "calico.metrics"} <= set(modules)
    # A None in sys.modules makes any import of it an ImportError, however deep.
    code = f"""
import importlib, sys
for heavy in ("torch", "transformers", "peft", "accelerate"):
    sys.modules[heavy] = None
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- rooms ------------------------------------------------------------------------------------------------------------

NUM_AT_THE_TOP = 8


def room_of(module: str) -> str | None:
    """`calico.model` of `calico.model.cem`; None for a file at the top of its package."""
    names = module.split(".")[:2]
    return ".".join(names) if (ROOT / Path(*names)).is_dir() and len(names) == 2 else None


@cache
def our_module(name: str) -> str | None:
    """The longest beginning of a dotted name that is a module of ours."""
    while name and not (path := ROOT / Path(*name.split("."))).is_dir() and not path.with_suffix(".py").is_file():
        name = name.rpartition(".")[0]
    return name or None


def arrows() -> dict[str, set[str]]:
    """Which rooms of its own package a room imports from, anywhere in its files."""
    between: dict[str, set[str]] = {}
    for path in ALL_MODULES:
        room = room_of(".".join(path.with_suffix("").parts))
        if room is None:
            continue
        named = imports_in(tree_of(path), path)
        ours = [our_module(name) for name in named if name.startswith(f"{path.parts[0]}.")]
        targets = {room_of(module) for module in ours if module}
        between.setdefault(room, set()).update(target for target in targets if target not in (None, room))
    return between


def test_few_files_lie_beside_the_rooms() -> None:
    for package in ("calico", "backend"):
        beside = sorted(path.name for path in (ROOT / package).glob("*.py"))
        assert len(beside) <= NUM_AT_THE_TOP, f"{package}/: {beside}; give the new one a room"


def test_no_circle_between_rooms() -> None:
    between = arrows()
    assert "calico.values" not in between
    assert between["calico.inference"] >= {"calico.model", "calico.language"}  # there is something to look at
    while between:
        leaves = {room for room, targets in between.items() if not targets & between.keys()}
        assert leaves, f"these rooms import each other, directly or through others: {sorted(between)}"
        between = {room: targets for room, targets in between.items() if room not in leaves}


def test_values_stand_on_errors_alone() -> None:
    path = Path("calico/values.py")
    named = imports_in(tree_of(path), path)
    assert {our_module(name) for name in named if name.startswith("calico")} == {"calico.errors"}


def test_what_is_imported_of_ours_is_there() -> None:
    """A branch that a move or a new name has overtaken learns it here, and not when the line runs."""
    missing = []
    for path in [*ALL_MODULES, *modules_of("tests")]:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] not in PACKAGES:
                continue
            module = str(node.module)
            if our_module(module) != module:
                missing.append(f"{path} imports {module}")
                continue
            names = [alias.name for alias in node.names]
            missing += [
                f"{path} imports {name} from {module}"
                for name in names
                if name not in names_of(module) and our_module(f"{module}.{name}") != f"{module}.{name}"
            ]
    assert not missing, "of ours, and not there: " + "; ".join(missing)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


@cache
def names_of(module: str) -> frozenset[str]:
    """What a module defines, imports or hands on, by its text."""
    path = Path(*module.split("."))
    path = path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return frozenset(names)


def test_the_public_names_come_late_and_need_no_torch_before() -> None:
    code = """
import sys
import calico
assert "CoSegmenter" in dir(calico)
from calico import CoSegmentation, ImageGroup, PartRegion, load_group
assert not {"torch", "transformers"} & set(sys.modules), "import calico brings torch"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(calico.__all__) == set(calico._HOMES)
    for name, home in calico._HOMES.items():
        assert name in names_of(home)
    with pytest.raises(AttributeError, match="no attribute 'Segmenter'"):
        calico.Segmenter  # noqa: B018


def test_listing_the_verbs_imports_none_of_them() -> None:
    code = (
        "import sys, scripts.__main__ as m; m.main([]); "
        "print(sorted(k for k in sys.modules if k.startswith(('scripts.', 'torch', 'flask'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['scripts.__main__', 'scripts._cli']"
