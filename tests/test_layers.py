"""The house: which room may import which, and what stands where."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hmrbench"
# The one list of layers, from the top down. A room imports only from rows below its own; rooms of one row do not
# import each other, except that in the last two rows a file may import those named after it.
LAYERS = (
    ("cli",),
    ("report", "compare", "pictures", "training"),
    ("evaluation", "profiling"),
    ("runtimes",),
    ("zoo",),
    ("data", "metrics"),
    ("body", "results", "cards", "checkpoints"),
    ("nets", "codecs", "fetch"),
    ("device", "distributed", "schema", "environment", "files"),
    ("geometry", "records", "skeletons", "errors"),
)
ORDERED = 2  # so many rows at the bottom are lists of files in which the order within a row counts too
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or not p.stem.startswith("__"))
_MODULE = re.compile(r"hmrbench(\.[a-z_0-9]+)+(:\w+)?")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Our rooms that a file imports, anywhere in it, also by a string that names a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "hmrbench":
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hmrbench."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hmrbench.")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.fullmatch(node.value):
            names.add(node.value.split(".")[1].partition(":")[0])
    return names & DEPTH.keys()


def may_import(own: str, other: str) -> bool:
    if own == other or DEPTH[other] > DEPTH[own]:
        return True
    row = LAYERS[DEPTH[own]]
    return other in row and DEPTH[own] >= len(LAYERS) - ORDERED and row.index(other) > row.index(own)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    own = room_of(path)
    assert own in DEPTH, f"{own} has no place in LAYERS"
    up = {name for name in imported(path) if not may_import(own, name)}
    assert not up, f"{path.relative_to(PACKAGE)} imports {', '.join(sorted(up))}, which it may not know"


def test_nets_know_nothing_of_data_cards_or_files() -> None:
    for path in (PACKAGE / "nets").rglob("*.py"):
        assert imported(path) <= {"nets", "geometry", "errors"}, path


def test_nothing_lies_flat_that_has_no_row() -> None:
    flat = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert flat <= DEPTH.keys()


# Typer commands and what Python's users call have their options as explicit keywords, each documented once.
PUBLIC = {"evaluation/rows.py:evaluate", "evaluation/score.py:score_file", "profiling/rows.py:profile_model"}


def test_files_are_short() -> None:
    long = {str(path.relative_to(PACKAGE)) for path in FILES if len(path.read_text().splitlines()) > 400}
    assert not long, "divide these by what they mean"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_fit_on_a_screen_and_take_few_arguments(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef) or "triton.jit" in map(ast.unparse, node.decorator_list):
            continue  # a kernel takes pointers and strides, and is one piece
        name = f"{path.relative_to(PACKAGE)}:{node.name}"
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        spelled_out = name in PUBLIC or room_of(path) == "cli"
        first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0] if spelled_out else node
        assert node.end_lineno is not None
        assert node.end_lineno - first.lineno < 60, f"{name} is longer than 60 lines"
        assert spelled_out or len(arguments) <= 8, f"{name} takes {len(arguments)} arguments: give it settings"


# What a stranger who knows the rooms finds at once: its file, and a name that is defined there.
PLACES = {
    "the loop": ("evaluation/loop.py", "predict"),
    "the pelvis rule": ("metrics/mpjpe.py", "pelvis_centred"),
    "the Swin record": ("nets/encoders/swin.py", "ENCODERS"),
    "the cache folder": ("fetch/ledger.py", "cache_dir"),
    "the gate": ("compare/gate.py", "check"),
    "the mesh overlay": ("pictures/overlay.py", "overlay_meshes"),
    "the LaTeX table": ("report/formats.py", "write_latex"),
    "the encoder of a card": ("zoo/__init__.py", "find_encoder"),
    "what a card may say": ("schema/__init__.py", "ModelCard"),
    "known layouts": ("checkpoints/layouts.py", "find_layout"),
}


@pytest.mark.parametrize(("file", "name"), PLACES.values(), ids=PLACES)
def test_it_stands_where_one_looks_for_it(file: str, name: str) -> None:
    body = ast.parse((PACKAGE / file).read_text()).body
    assert name in {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)} | {
        t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }


def drawing() -> str:
    """The list as CONTRIBUTING.md shows it: the top row first, what a row may import below it."""
    return "\n".join(f"{len(LAYERS) - 1 - i}  {'  '.join(row)}" for i, row in enumerate(LAYERS))


def test_contributing_draws_this_list() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert f"<!-- layers -->\n```\n{drawing()}\n```\n<!-- /layers -->" in text, drawing()
