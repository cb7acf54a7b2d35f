"""README and docs: console blocks run, links lead somewhere, pages build, and the wheel has all that a demo needs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_cli import hmrbench
from test_tables import eval_row, profile_row, save

from hmrbench import __version__

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+?) -->\n)?```(?P<kind>[\w-]*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
# What makes the commands of a page quick, by the project's own file of settings.
QUICK = {"limit": 2, "repeats": 2, "workers": 1, "device": "cpu"}


def blocks(page: Path) -> Iterator[tuple[str, str, str | None]]:
    """Kind, text and, for a block that is not run, the reason, which its page states in a comment above it."""
    for found in BLOCK.finditer(page.read_text()):
        yield found["kind"], found["text"], found["why"]


def commands(text: str) -> list[list[str]]:
    """What is typed in a console block, as words, without comments."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
@pytest.mark.thorough
def test_console_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a page types, in its order, in one folder; on two people, and two forwards of a profile."""
    typed = [c for kind, text, why in blocks(page) if kind == "console" and why is None for c in commands(text)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hmrbench.yaml").write_text(yaml.safe_dump(QUICK))
    for words in typed:
        assert words[0] == "hmrbench", words
        result = hmrbench(*words[1:])
        assert result.exit_code == 0, (words, result.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_that_are_not_run_are_commands_all_the_same(page: Path) -> None:
    """Flags and arguments exist; a block without a kind hides no command."""
    for kind, text, why in blocks(page):
        if kind != "console":
            assert kind or "hmrbench " not in text, text
            continue
        assert commands(text), f"{page.name}: a console block types commands after '$ '"
        for words in commands(text) if why else ():
            if words[0] == "hmrbench":
                assert_parses(words[1:])


def assert_parses(words: list[str]) -> None:
    """Follow the words through the groups of commands to flags and arguments, and run nothing."""
    import typer.main

    from hmrbench.cli import app

    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("hmrbench", list(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions (`>>>`) are doctests elsewhere; what else is Python runs on a folder of runs."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs", eval_row("vitpose-s"), profile_row("vitpose-s"))
    names: dict[str, Any] = {}
    for kind, text, why in blocks(page):
        if kind == "python" and why is None and ">>>" not in text:
            with torch.random.fork_rng():
                exec(compile(text, str(page), "exec"), names)


def test_readme_is_short_and_shows_the_numbers_that_the_gate_holds() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    rows = {r["model"]: r["values"] for r in json.loads((ROOT / "baselines" / "demo.json").read_text())["rows"]}
    head, shown = (line.split() for line in lines if line.startswith(("model  ", "vmpose-t-s2  ")))
    for name, value in zip(head[1:], shown[1:], strict=True):
        assert float(value) == pytest.approx(rows[shown[0]][name], abs=0.0051), name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        made = target == "commands.md" or target.startswith("networks/")
        assert made or re.match(r"https?:", target) or (page.parent / target).exists(), target


def test_pages_build_without_network(tmp_path: Path) -> None:
    """Strictly: a broken link or anchor fails. A page for each family, each command and function is there."""
    pytest.importorskip("mkdocs", reason="the documentation is not built with the oldest dependencies")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    families = {path.stem for path in (tmp_path / "networks").glob("*.html")}
    assert {"index", "swinpose", "hmr2"} <= families
    commands_page = (tmp_path / "commands.html").read_text()
    assert "hmrbench weights fetch" in commands_page
    assert "--cuda-graph" in commands_page
    assert 'id="hmrbench.zoo.load_model"' in (tmp_path / "api.html").read_text()
    assert "74.6" in (tmp_path / "networks" / "swinpose.html").read_text()
    for path in tmp_path.rglob("*.html"):
        loaded = re.findall(r'(?:src|<link[^>]+href)="(https?://[^"]+)"', path.read_text())
        assert not [u for u in loaded if "canonical" not in u], path.name


# --------------------------------------------------------------------------- what is released


def test_citation_and_changelog_name_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license", "date-released"} <= set(citation)
    assert f"## {__version__} ({citation['date-released']})" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_wheel_and_sdist_run_the_demo(tmp_path: Path) -> None:
    """Built without a network and installed by themselves; the demo runs from there on a few people."""
    pytest.importorskip("hatchling", reason="needs the build backend, which the development environment brings")
    for kind in ("wheel", "sdist"):
        code = f"import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert (wheel.name, sdist.name) == (f"hmrbench-{__version__}-py3-none-any.whl", f"hmrbench-{__version__}.tar.gz")
    names = subprocess.run(["tar", "-tzf", sdist], check=True, capture_output=True, text=True).stdout
    for file in ("README.md", "CITATION.cff", "mkdocs.yml", "docs/generate.py", "Makefile", "tests/test_docs.py"):
        assert f"hmrbench-{__version__}/{file}\n" in names
    place = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:  # what `pip install --no-deps --target` does with a pure wheel
        archive.extractall(place)
    program = "import hmrbench; print(hmrbench.__file__); from hmrbench.__main__ import main; main()"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {program}"]
    (tmp_path / "hmrbench.yaml").write_text("{limit: 1, seconds: 0.1, workers: 1}")
    done = subprocess.run(
        [*command, "demo", "--limit", "1", "-o", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(place))
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg') == 12
