"""`hmrbench models` and `hmrbench show`: what networks there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hmrbench.cli.options import Json, Model, ModelsDirs, make_table, print_json, stdout


def models(
    pattern: Annotated[list[str] | None, typer.Argument(help="Names or globs; all models if none.")] = None,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """List the networks, their size and what was published about them."""
    from hmrbench import zoo

    cards = sorted(zoo.find_cards(pattern or ["*"], zoo.load_cards(models_dir or [])), key=zoo.family_order)
    rows: list[dict[str, Any]] = [
        {
            "name": c.name,
            "task": c.task,
            "family": c.family,
            "size": c.size,
            "stages": c.stages,
            "input": c.input_text,
            "params": zoo.count_parameters(c)["params"],
            "published": [p.model_dump() for p in c.published],
        }
        for c in cards
    ]
    if json:
        print_json(rows)
        return
    cells = [
        [r["name"], r["task"], r["size"].upper(), r["stages"], r["input"], r["params"] / 1e6, _published(c)]
        for r, c in zip(rows, cards, strict=True)
    ]
    stdout().print(make_table(["model", "task", "size", "stages", "input", "params (M)", "published"], cells))


def _published(card: Any) -> str:
    return ", ".join(f"{p.metric} {p.value:g}" for p in card.published) or "-"


def show(model: Model, models_dir: ModelsDirs = None, json: Json = False) -> None:
    """Show one network: its stages and shapes, parameters by part, published numbers, where its weights come from."""
    from hmrbench import zoo

    card = zoo.load_card(model, models_dir or [])
    shapes = zoo.describe(card)
    parameters = zoo.count_parameters(card)
    if json:
        print_json({**card.model_dump(mode="json"), **parameters, "shapes": shapes})
        return
    out = stdout()
    cut = f", cut after stage {card.stages}" if card.encoder and not card.encoder.startswith("vit") else ""
    out.print(f"[bold]{card.name}[/bold]  ({card.paper_name}; {card.task}; {card.encoder or card.build}{cut})")
    rows = [[s["part"], s["output"], s["params"] / 1e6] for s in shapes]
    out.print(make_table([f"part at {card.input_text}", "output", "params (M)"], [*rows, ["all", "", parameters["params"] / 1e6]]))
    out.print(f"codec      {card.codec}")
    out.print(f"licence    {card.licence}")
    for p in card.published:
        out.print(f"published  {p.metric} {p.value:g} on {p.dataset}  [{p.source}]", markup=False)
    for title, sources in (("weights", card.weights), ("encoder", card.encoder_weights)):
        for s in sources:
            where = f"by hand: {s.page}" if s.url == "manual:" else s.url
            checked = f"  sha256 {s.sha256}" if s.sha256 else ""
            out.print(f"{title:10s} {where}  ({s.layout}){checked}  [{s.read_in}]", markup=False)
    for text in card.assumed:
        out.print(f"assumed    {text}", markup=False)
    for text in card.sources:
        out.print(f"source     {text}", markup=False)
