"""Hooks of MkDocs: the pages made from what the program knows: a page per family of networks, and its commands."""

from __future__ import annotations

import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DEMO = ("demo-pose AP", "demo-mesh MPJPE", "demo-mesh PA-MPJPE")  # of the demo weights' scores, what is shown


def on_config(config: Any) -> Any:
    """A page of the folder that the navigation does not name stands at its end, by its heading; none is lost."""
    families = _families()
    for entry in config.nav:
        if "Networks" in entry:
            entry["Networks"] += [{title: f"networks/{name}.md"} for name, (title, _) in families.items()]
    named = re.findall(r"[\w/-]+\.md", json.dumps(config.nav))
    for path in sorted(Path(config.docs_dir).glob("*.md")):
        if path.name not in named:
            heading = re.search(r"^# (.+)$", path.read_text(), re.MULTILINE)
            config.nav.append({heading[1] if heading else path.stem: path.name})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here."""
    made = {"networks/index.md": _overview(), "commands.md": commands()}
    made |= {f"networks/{name}.md": _family(title, cards) for name, (title, cards) in _families().items()}
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


# --------------------------------------------------------------------------- networks


def _families() -> dict[str, tuple[str, list[Any]]]:
    """Cards by family, in the order of the tables; the title is what their names share."""
    from hmrbench.cards import family_order, load_cards

    cards = sorted(load_cards().values(), key=lambda c: (c.task != "hpe", family_order(c)))
    families: dict[str, list[Any]] = {}
    for card in cards:
        families.setdefault(card.family, []).append(card)
    return {name: (_title([c.paper_name for c in own]) or name, own) for name, own in families.items()}


def _title(names: list[str]) -> str:
    """What the names begin with, up to the end of a word: `HRNet` of HRNet-W32 and HRNet-W48."""
    shared = "".join(letters[0] for letters in takewhile(lambda same: len(set(same)) == 1, zip(*names, strict=False)))
    if len(names) > 1 and shared in names:  # one is the plain form of the others
        shared = shared.rpartition("-")[0] or shared
    elif len(names) > 1 and all(n[len(shared) : len(shared) + 1].isalnum() for n in names):
        shared = re.sub(r"[A-Za-z0-9.]+$", "", shared)
    return shared.rstrip("-_ (*")


def _measured() -> dict[str, dict[str, float]]:
    """Parameters and MACs of each model, and what its demo weights score, as the project's own gates hold them."""
    found: dict[str, dict[str, float]] = {}
    for name in ("costs.json", "demo.json"):
        for row in json.loads((ROOT / "baselines" / name).read_text())["rows"]:
            prefix = f"{row['dataset']} " if "dataset" in row else ""
            found.setdefault(row["model"], {}).update({prefix + k: v for k, v in row["values"].items()})
    return found


def _overview() -> str:
    lines = ["# Networks", "", "| family | task | networks | read in | encoder |", "|---|---|--:|---|---|"]
    for name, (title, cards) in _families().items():
        source = cards[0].sources[0].partition(" (")[0] if cards[0].sources else ""
        encoders = ", ".join(dict.fromkeys(c.encoder or "its own" for c in cards))
        task = {"hpe": "pose", "hmr": "mesh"}[cards[0].task]
        lines.append(f"| [{title}]({name}.md) | {task} | {len(cards)} | {_cell(source)} | {encoders} |")
    lines += ["", "A name works in any case and in the papers' spelling (`SwinHMR2.0-S-S3`); globs (`'gmf*-s3'`) work"]
    lines += ["wherever a name does. `hmrbench show MODEL` prints a card with shapes stage by stage."]
    return "\n".join(lines) + "\n"


def _family(title: str, cards: list[Any]) -> str:
    from hmrbench.metrics.measures import measure_of

    measured = _measured()
    told = [p for c in cards for p in c.published if measure_of(p.metric).shown]  # a page is no data base
    scores = list(dict.fromkeys(f"{p.dataset} {p.metric}" for p in told))
    demo = [k for k in DEMO if any(k in measured.get(c.name, {}) for c in cards)]
    heads = ["network", "input", "params (M)", "MACs (G)", *(f"published: {s}" for s in scores)]
    heads += [f"demo weights: {s}" for s in demo]
    lines = [f"# {title}", "", _row(heads), "|" + "|".join(["---", "---", *["--:"] * (len(heads) - 2)]) + "|"]
    for card in cards:
        own = measured.get(card.name, {})
        published = {f"{p.dataset} {p.metric}": f"{p.value:g}" for p in card.published}
        costs = [f"{own[k] / s:.2f}" if k in own else "" for k, s in (("params", 1e6), ("macs", 1e9))]
        cells = [f"`{card.name}`", card.input_text, *costs, *(published.get(s, "") for s in scores)]
        lines.append(_row([*cells, *(f"{own[k]:.1f}" if k in own else "" for k in demo)]))
    lines += ["", "Parameters and MACs (one multiply-add is 1) are counted by this project and held by its gate; a"]
    lines += ["published number is its source's, and never shown as measured.", ""]
    lines += _listed("Published by", [p.source for c in cards for p in c.published])
    lines += _listed("Weights", [_where(s) for c in cards for s in c.weights])
    lines += _listed("Encoders to start training from", [_where(s) for c in cards for s in c.encoder_weights])
    lines += _listed("Assumed, where the sources are silent", [a for c in cards for a in c.assumed])
    lines += _listed("Read in", [s for c in cards for s in c.sources])
    return "\n".join([*lines, f"**Licence.** {_text('; '.join(dict.fromkeys(c.licence for c in cards)))}", ""])


def _where(source: Any) -> str:
    place = f"by hand: <{source.page}>" if source.url == "manual:" else f"`{source.url}`"
    return f"{place}{f' ({source.variant})' if source.variant else ''}, read in {_text(source.read_in)}"


def _listed(title: str, entries: list[str]) -> list[str]:
    unique = list(dict.fromkeys(entries))
    return [f"## {title}", "", *(f"- {e}" for e in unique), ""] if unique else []


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_cell(c) for c in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _text(text: str) -> str:
    return re.sub(r"([<>*_])", r"\\\1", text)


# --------------------------------------------------------------------------- commands


def commands() -> str:
    """Every command with its usage, words, flags and examples, as typer knows them."""
    import typer.main

    from hmrbench.cli import app

    lines = ["# Commands", "", "Made from the program itself; `hmrbench COMMAND --help` says the same.", ""]
    lines += ["A flag beats an `HMRBENCH_*` variable, which beats `hmrbench.yaml` in the working folder, which beats"]
    lines += ["the default.", ""]
    for path, command in _walk("hmrbench", typer.main.get_command(app)):
        lines += _command(path, command)
    return "\n".join(lines)


def _walk(path: str, command: Any) -> list[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    alone = not inner or (command.invoke_without_command and path != "hmrbench")  # `datasets` by itself lists
    found = [(path, command)] if alone else []
    for name, own in inner.items():
        found += _walk(f"{path} {name}", own)
    return found


def _command(path: str, command: Any) -> list[str]:
    from hmrbench.cli.help import EXAMPLES

    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    names = " ".join(p.name.upper() + ("..." if p.nargs == -1 else "") for p in arguments)
    usage = f"{path} {names} [OPTIONS]".replace("  ", " ")
    lines = [f"## {path}", "", "```text", usage, "```", "", _help(command.help), ""]
    lines += [f"- `{p.name.upper()}`: {_text(getattr(p, 'help', '') or '')}" for p in arguments]
    lines += ["", "| flag | what | default |", "|---|---|---|"]
    for p in options:
        flags = ", ".join(f"`{o}`" for o in [*p.opts, *p.secondary_opts])
        variable = f" (`{p.envvar}`)" if p.envvar else ""
        unsaid = p.default in (None, False, ()) or callable(p.default)
        default = "required" if p.required else "" if unsaid else f"`{getattr(p.default, 'value', p.default)}`"
        lines.append(f"| {flags} | {_cell(_text(p.help or ''))}{variable} | {default} |")
    lines += [""]
    if examples := EXAMPLES.get(path.removeprefix("hmrbench ")):
        lines += ["```text", *examples, "```", ""]
    return lines


def _help(text: str | None) -> str:
    return re.sub(r"(?<!`)(--[a-z][a-z-]*)(?!`)", r"`\1`", text or "")
