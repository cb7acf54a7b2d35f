"""`hmrbench models` and `hmrbench show`: what networks there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.options import Json, Model, ModelsDirs, print_json, print_text, show_table, stderr, stdout
from hmrbench.errors import HmrbenchError, printable

if TYPE_CHECKING:
    from hmrbench.schema import ModelCard


def models(
    pattern: Annotated[list[str] | None, typer.Argument(help="Names or globs; all models if none.")] = None,
    models_dir: ModelsDirs = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of files of cards, for editors, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """List the networks, their size and what was published about them."""
    if schema:
        from hmrbench.schema.writing import cards_schema

        print_json(cards_schema())
        return
    from hmrbench.cards import family_order, find_cards, load_cards
    from hmrbench.zoo import parts

    cards = sorted(find_cards(pattern or ["*"], load_cards(models_dir or [])), key=family_order)
    failures: list[HmrbenchError] = []

    def params(card: ModelCard) -> int | None:
        try:
            return parts.count_parameters(card)["params"]
        except HmrbenchError as e:  # another's network: the others are listed all the same
            failures.append(e)
            return None

    rows: list[dict[str, Any]] = [
        {
            "name": c.name,
            "task": c.task,
            "family": c.family,
            "size": c.size,
            "stages": c.stages,
            "input": c.input_text,
            "params": params(c),
            "published": [p.model_dump() for p in c.published],
        }
        for c in cards
    ]
    for e in failures:
        stderr().print(f"error: {e}", markup=False, soft_wrap=True)
    if json:
        print_json(rows)
    else:
        _show_list(cards, rows)
    if failures:
        raise typer.Exit(max(e.exit_code for e in failures))


def _show_list(cards: Sequence[ModelCard], rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        [r["name"], r["task"], r["size"].upper(), r["stages"], r["input"], _millions(r["params"]), _published(c)]
        for r, c in zip(rows, cards, strict=True)
    ]
    show_table(["model", "task", "size", "stages", "input", "params (M)", "published"], cells)


def _millions(count: int | None) -> float | None:
    """In millions; None where it is not known, as for a network that another backend computes."""
    return None if count is None else count / 1e6


def _published(card: Any) -> str:
    return ", ".join(f"{p.metric} {p.value:g}" for p in card.headline) or "-"


def show(
    model: Model,
    models_dir: ModelsDirs = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print its card as a file of cards, to start from.")] = False,
    json: Json = False,
) -> None:
    """Show one network: its stages and shapes, parameters by part, published numbers, where its weights come from."""
    from hmrbench.cards import load_card
    from hmrbench.fetch import sources
    from hmrbench.zoo import parts

    card = load_card(model, models_dir or [])
    if yaml:
        from hmrbench.schema.writing import as_yaml

        print_text(as_yaml(card))
        return
    shapes = parts.describe(card)
    parameters = parts.count_parameters(card)
    if json:
        print_json({**card.model_dump(mode="json"), **parameters, "shapes": shapes})
        return
    out = stdout()
    cut = f", cut after stage {card.stages}" if card.encoder and len(shapes) > 3 else ""  # more than its three parts
    title = f"{card.name}  ({card.paper_name}; {card.task}; {card.encoder or card.build}{cut})"
    out.print(printable(title), style="bold", soft_wrap=True)
    rows = [[s["part"], _shape(s["output"]), _millions(s["params"])] for s in shapes]
    rows.append(["all", "", _millions(parameters["params"])])
    show_table([f"part at {card.input_text}", "output", "params (M)"], rows)
    lines = [("codec", card.codec), ("licence", card.licence)]
    lines += [("published", f"{p.metric} {p.value:g} on {p.dataset}  [{p.source}]") for p in card.published]
    demo = () if card.demo_weights is None else (card.demo_weights,)
    for title, places in (("weights", card.weights), ("encoder", card.encoder_weights), ("demo", demo)):
        for s in places:
            where = f"by hand: {s.page}" if s.url == "manual:" else s.url
            checked = f", sha256 {s.sha256}" if s.sha256 else ""
            lines.append((title, f"{where}  ({s.layout}{checked})  [{s.read_in}]{s.note and f'; {s.note}'}"))
    if card.runtime is None or card.weights:
        lines += [("next", step) for step in sources.next_steps(card)]
    lines += [("assumed", text) for text in card.assumed] + [("source", text) for text in card.sources]
    for title, text in lines:
        out.print(printable(f"{title:10s} {text}"), soft_wrap=True)


def _shape(output: Any) -> str:
    """A shape without the batch: 384x16x12."""
    if isinstance(output, dict):
        return "\n".join(f"{name} {_shape(shape)}" for name, shape in output.items())
    return "x".join(map(str, output[1:]))
