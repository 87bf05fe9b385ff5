"""What the documents say is there: commands and flags, make targets, paths, links, variables, imports, the tree."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import calico
from calico.drawings import draw
from scripts import __main__

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("calico/weights/*/*.md"))
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every command line of the shell blocks and of inline code, as words, comments left out."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose)]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe in inline code: not a command
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0].startswith(".venv/bin/"):
            words[0] = words[0].removeprefix(".venv/bin/")
        if words:
            found.append(words)
    return found


def test_commands_are_read_from_blocks_and_from_inline_code() -> None:
    text = "Say `make demo` or `calico x --y 1`.\n\n```sh\nA=1 make test  # slow\ncalico z \\\n  --w\n```\n"
    assert commands(text) == [["make", "test"], ["calico", "z", "--w"], ["make", "demo"], ["calico", "x", "--y", "1"]]


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> tuple[set[str], str]:
    """The option strings that a verb (and its sub-command, if the words name one) knows, and what was looked at."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word in words:
                if word in action.choices:
                    return options_of(action.choices[word], words)
    return {option for action in parser._actions for option in action.option_strings}, parser.prog


CALICO_COMMANDS = [
    pytest.param(document, words, id=f"{document}: {' '.join(words)}")
    for document in DOCUMENTS
    for words in commands(text_of(document))
    if words[0] == "calico" and len(words) > 1 and words[1] not in {"VERB", "count"}  # placeholders
]


@pytest.mark.parametrize(("document", "words"), CALICO_COMMANDS)
def test_commands_and_their_flags_exist(document: str, words: list[str]) -> None:
    verb, *rest = words[1:]
    assert verb in __main__.verbs(), f"{document}: no verb {verb!r}"
    known, prog = options_of(importlib.import_module(f"scripts.{verb}").build_parser(), rest)
    flags = {word.partition("=")[0] for word in rest if re.match(r"--\w", word)}
    assert flags <= known, f"{document}: {prog} has no {flags - known}"


def test_the_readme_shows_the_main_commands() -> None:
    shown = {" ".join(words[:2]) for words in commands(README)}
    assert {"make demo", "make test", "calico segment", "calico project", "calico prelabel"} <= shown


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document: str) -> None:
    makefile = text_of("Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) *\??=", makefile, re.MULTILINE))
    for words in commands(text_of(document)):
        if words[0] != "make":
            continue
        assert {word for word in words[1:] if "=" not in word} <= targets, words
        assert {word.partition("=")[0] for word in words[1:] if "=" in word} <= variables, words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_that_are_run_exist(document: str) -> None:
    for words in commands(text_of(document)):
        if "-m" in words[:-1] and words[0].startswith("python"):
            name = words[words.index("-m") + 1]
            if name.partition(".")[0] in {"calico", "backend", "scripts"} and "VERB" not in name:
                path = ROOT / name.replace(".", "/")
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if not re.match(r"https?://|mailto:|#", target):
            path = (ROOT / document).parent / target.partition("#")[0]
            assert path.exists(), f"{document}: {target} is not there"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_code_exist(document: str) -> None:
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text_of(document)):
        if path.partition("/")[0] in top - {"runs", "out"} and "VERB" not in path:
            assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), f"{document}: {path} is not there"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_variables_are_read_somewhere(document: str) -> None:
    files = [*ROOT.glob("backend/*.py"), *ROOT.glob("tests/**/*.py")]
    read = "".join(path.read_text(encoding="utf-8") for path in files)
    for variable in set(re.findall(r"\bCALICO_[A-Z][A-Z_]*[A-Z]\b", text_of(document))):
        assert f'"{variable}"' in read, f"{document}: nobody reads {variable}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_examples_import_what_exists(document: str) -> None:
    for block in blocks(text_of(document), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("calico", "backend")):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_snippets_of_the_api_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("chair", "stool")):
        drawn = draw(number, size_hw=(96, 128), object_name=name)
        Image.fromarray(drawn.image).save(tmp_path / f"{name}.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(text_of("docs/api.md"), "python"):
        exec(compile(block, "docs/api.md", "exec"), names)


def test_the_api_page_names_what_is_public() -> None:
    page = text_of("docs/api.md")
    assert not [name for name in calico.__all__ if not re.search(rf"\b{name}\b", page)]
    assert all(getattr(calico, name).__name__ == name for name in calico.__all__)


def tree() -> list[str]:
    """The paths of the README's tree."""
    found, parent = [], ""
    for line in blocks(README, "text")[-1].splitlines():
        match = re.match(r"( *)((?:[\w.-]+/?)+(?:, [\w./-]+)*)", line)
        assert match, line
        indent, names = match.groups()
        if not indent:
            parent = names
        found += [parent] if not indent else [parent + name for name in names.split(", ")]
    return found


def test_the_tree_is_there() -> None:
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert not missing, f"README's tree names {missing}"


def test_the_tree_shows_every_folder_of_code() -> None:
    shown = {path.rstrip("/") for path in tree()}
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/__init__.py")}
    folders |= {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*/__init__.py")}
    assert {folder for folder in folders if not folder.startswith(".")} <= shown
