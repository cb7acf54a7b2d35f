"""What a newcomer sees: flags in panels, examples that parse, a line while PyTorch loads, what to do for weights."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from test_cli import hmrbench

from hmrbench.cli import app
from hmrbench.cli.help import EXAMPLES, MANY, PANELS


def all_commands(path: str = "", command: Any = None) -> dict[str, Any]:
    command = command or typer.main.get_command(app)
    found = {path: command} if path else {}
    for name, inner in getattr(command, "commands", {}).items():
        found |= all_commands(f"{path} {name}".strip(), inner)
    return found


COMMANDS = all_commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_many_flags_are_grouped(name: str) -> None:
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    panels = {p.name: getattr(p, "rich_help_panel", None) for p in options}
    if len(options) <= MANY:
        assert not any(panels.values())
    else:
        assert len([k for k, v in panels.items() if v not in PANELS]) <= 3


def test_a_flag_stands_in_one_panel() -> None:
    names = [name for panel in PANELS.values() for name in panel]
    assert len(names) == len(set(names))
    assert {"train", "plot", "eval", "profile"} <= {n for n, c in COMMANDS.items() if len(c.params) > MANY}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_parse_and_are_shown_as_typed(name: str) -> None:
    shown = hmrbench(*name.split(), "--help").stdout
    for line in EXAMPLES[name]:
        assert f"   {line}\n" in shown
        words = shlex.split(line)[1:]
        assert words[: len(name.split())] == name.split()
        COMMANDS[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize("width", ["80", "40"])
@pytest.mark.parametrize("name", ["train", "plot", "eval", "profile", "check"])
def test_every_flag_can_be_read_at_any_width(name: str, width: str) -> None:
    text = hmrbench(name, "--help", env={"COLUMNS": width}).stdout
    for option in COMMANDS[name].params:
        if option.param_type_name == "option":
            assert re.search(rf"{option.opts[0]}(?![\w-])", text), option.opts
    longest = max(len(line) for line in text.partition("Examples:")[0].splitlines())
    assert longest <= (int(width) if width == "80" else 42)  # words get ten columns beside the longest flag, at least


def test_a_terminal_says_that_pytorch_is_loading() -> None:
    """Once, before it is there, and wiped away after; a pipe sees nothing of it."""
    code = "from hmrbench.cli import loading; loading.announce(); import torch; print('done', torch.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done torch\n", "")
    reader, writer = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True, check=True)
    os.close(writer)
    shown = os.read(reader, 1000).decode()
    os.close(reader)
    assert done.stdout == "done torch\n"
    assert shown == f"loading PyTorch ...\r{' ' * 19}\r"


CARD = """
family: mine
models:
  by-hand: {WEIGHTS, paper_name: A, task: hpe, size: t, encoder: vit-s, stages: 4, input: [256, 192], licence: MIT}
"""


@pytest.mark.parametrize(
    ("weights", "says", "silent"),
    [
        (
            '{url: "manual:", file: net.pth, page: "https://a.example/get"}',
            ["by hand: https://a.example/get", "/manual/net.pth", "--weights PATH"],
            "weights fetch",
        ),
        ('{url: "https://a.example/net.pth"}', ["hmrbench weights fetch by-hand"], "by hand"),
        (
            '{url: "manual:", page: "https://a.example/get"}, {url: "https://b.example/net.pth"}',
            ["hmrbench weights fetch by-hand"],
            "put it at",
        ),
    ],
)
def test_what_to_do_for_weights(weights: str, says: list[str], silent: str, tmp_path: Path) -> None:
    """`weights fetch` is named where it fetches; where a person must, the page and the place of the file are."""
    (tmp_path / "c.yaml").write_text(CARD.replace("WEIGHTS", f"weights: [{weights}]"))
    shown = hmrbench("show", "by-hand", "--models-dir", tmp_path).stdout
    steps = "\n".join(line for line in shown.splitlines() if line.startswith("next"))
    refused = hmrbench("eval", "by-hand", "-d", "demo-pose", "--models-dir", tmp_path)
    assert refused.exit_code == 3
    for text in (steps, refused.stderr):
        for words in says:
            assert words.lower() in text.lower()
        assert silent.lower() not in text.lower()
