"""`hmrbench weights`: get, convert and check checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.options import Json, Model, Models, ModelsDirs, Offline, print_json, show_table, stderr, stdout

if TYPE_CHECKING:
    from hmrbench.fetch.fetch import Fetched
    from hmrbench.schema import ModelCard


def fetch(
    model: Models,
    encoder: Annotated[
        bool,
        typer.Option("--encoder", help="The pretrained encoder, to start training from, not the whole network."),
    ] = False,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Which of a model's weights, such as hmr2.0a; the first it names if none."),
    ] = None,
    offline: Offline = False,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Get public weights into the cache, checked; `eval` and `predict` find them there.

    Where a person is needed it prints the page, the file and where to put it, goes on with the other models,
    and ends with exit code 3.
    """
    from hmrbench.cards import find_cards, load_cards
    from hmrbench.cli.downloads import download_bar
    from hmrbench.errors import HmrbenchError
    from hmrbench.fetch import sources

    cards = find_cards(model, load_cards(models_dir or []))
    remark = stderr()
    rows: list[dict[str, Any]] = []
    failures: list[HmrbenchError] = []
    known: dict[tuple[Any, ...], Fetched] = {}  # several models may share one file
    with download_bar(remark) as progress:
        for card in cards:
            try:
                places = tuple(sources.weights_sources(card, encoder=encoder, variant=variant))
                if places not in known:
                    known[places] = sources.fetch_weights(
                        card, encoder=encoder, variant=variant, offline=offline, progress=progress
                    )
                rows.append(_row(card, encoder, known[places]))
            except HmrbenchError as e:
                failures.append(e)
                remark.print(f"error: {e}", markup=False, soft_wrap=True)
    if json:
        print_json(rows)
    elif rows:
        cells = [[r["model"], r["variant"] or "-", r["sha256"][:12], r["file"]] for r in rows]
        what = "encoder of" if encoder else "weights of"
        show_table([what, "variant", "sha256", "file"], cells)
        for licence in dict.fromkeys(f"licence: {r['licence']}  ({r['source']})" for r in rows):
            stdout().print(licence, markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(max(e.exit_code for e in failures))


def _row(card: ModelCard, encoder: bool, found: Fetched) -> dict[str, Any]:
    source = found.source
    return {
        "model": card.name,
        "part": "encoder" if encoder else "weights",
        "variant": source.variant,
        "layout": source.layout,
        "file": str(found.path),
        "sha256": found.sha256,
        "source": source.url,
        "read_in": source.read_in,
        "licence": source.licence or card.licence,
        "note": source.note,
    }


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint in any known layout.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The safetensors file to write; or say it with -o.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="The safetensors file to write.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model or encoder it is for; found by its keys and shapes if none."),
    ] = None,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint to our keys and safetensors, checked key by key against the network it is for."""
    from hmrbench.errors import UsageError
    from hmrbench.zoo.convert import convert_weights

    if (target is None) == (out is None):
        raise UsageError("where to write: give one .safetensors file, such as -o mine.safetensors")
    target = target or out
    assert target is not None
    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: the output is a .safetensors file")
    name, report = convert_weights(source, target, model, models_dir or [])
    if json:
        print_json({"model": name, "layout": report.layout, "out": str(target), "unexpected": report.unexpected})
    else:
        stdout().print(f"{source} ({report.layout}) -> {target} ({name})", markup=False)
        _remark_unexpected(report.unexpected)


def check(
    model: Model,
    file: Annotated[Path, typer.Argument(help="A checkpoint.")],
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Check that a checkpoint is this model's: every key there, of the right shape. Exit code 3 if not."""
    from hmrbench import zoo
    from hmrbench.cards import load_card
    from hmrbench.errors import WeightsError
    from hmrbench.files import file_sha256

    card = load_card(model, models_dir or [])
    if not file.is_file():
        raise WeightsError(f"{file}: no such weights file")
    _, report = zoo.load_weights(card, file, zoo.made_mesh())
    found = {
        "model": card.name,
        "file": str(file),
        "sha256": file_sha256(file),
        "layout": report.layout if report else "the network's own",
        "part": report.part if report else "",
        "interpolated": list(report.interpolated) if report else [],
        "unused": list(report.unused) if report else [],
        "unexpected": list(report.unexpected) if report else [],
    }
    if json:
        print_json(found)
        return
    rows = [
        [
            k,
            ", ".join(v[:4]) + (f" and {len(v) - 4} more" if len(v) > 4 else "") if isinstance(v, list) else v,
        ]
        for k, v in found.items()
    ]
    show_table(["", f"{file.name} fits {card.name}"], rows)


def _remark_unexpected(keys: tuple[str, ...]) -> None:
    if keys:
        stderr().print(f"{len(keys)} unexpected keys left out: {', '.join(keys[:8])}", markup=False)
