"""Imports go downward in one list, never back up, never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hmrbench"
# From the top down; entries of one line know nothing of each other except where Python's own order allows it.
LAYERS = (
    ("cli",),
    ("report", "train", "training", "pictures"),
    ("evaluate", "profiler"),
    ("latency",),
    ("flops",),
    ("regress",),
    ("formats", "plots"),
    ("tables",),
    ("figures", "overlay"),
    ("device",),
    ("results",),
    ("zoo",),
    ("sources",),
    ("checkpoints",),
    ("data", "synth"),
    ("codecs",),
    ("measures",),
    ("metrics",),
    ("body",),
    ("nets",),
    ("geometry", "skeletons"),
    ("fetch", "download", "schemes", "ledger", "archives"),
    ("distributed",),
    ("files",),
    ("schema",),
    ("records",),
    ("__main__",),  # the command's first steps: of the rest only `cli`, once signals are heard
    ("errors",),
    ("__init__",),
)
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__main__.py")


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Names of our top-level modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hmrbench":
            parts = node.module.split(".")
            names |= (
                {parts[1]}
                if len(parts) > 1
                else {a.name for a in node.names if (PACKAGE / a.name).exists() or (PACKAGE / f"{a.name}.py").exists()}
            )
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hmrbench.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    own = layer_of(path)
    assert own in DEPTH, f"{own} has no place in LAYERS"
    if own == "__init__":
        return
    up = {name for name in imported(path) - {own} if DEPTH[name] < DEPTH[own]}
    assert not up, f"{path.name} imports {', '.join(sorted(up))} from above"


def test_nets_know_nothing_of_data_cards_or_files() -> None:
    for path in (PACKAGE / "nets").rglob("*.py"):
        assert imported(path) <= {"nets", "geometry", "errors"}, path
