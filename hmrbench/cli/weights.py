"""`hmrbench weights`: convert and check checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import Json, Model, ModelsDirs, make_table, print_json, stderr, stdout


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint in any known layout.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The safetensors file to write.")],
    model: Annotated[
        str | None, typer.Option("--model", help="The model or encoder it is for; found by its keys and shapes if none.")
    ] = None,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint to our keys and safetensors, checked key by key against the network it is for."""
    from hmrbench import zoo
    from hmrbench.errors import UsageError

    if target.suffix != ".safetensors":
        raise UsageError(f"{target}: the output is a .safetensors file")
    name, report = zoo.convert_weights(source, target, model, models_dir or [])
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
    from hmrbench.download import file_sha256

    card = zoo.load_card(model, models_dir or [])
    _, report = zoo.load_weights(card, file)
    assert report is not None  # noqa: S101  (a file was given)
    found = {
        "model": card.name,
        "file": str(file),
        "sha256": file_sha256(file),
        "layout": report.layout,
        "interpolated": list(report.interpolated),
        "unused": list(report.unused),
        "unexpected": list(report.unexpected),
    }
    if json:
        print_json(found)
        return
    rows = [[k, ", ".join(v[:4]) + (f" and {len(v) - 4} more" if len(v) > 4 else "") if isinstance(v, list) else v] for k, v in found.items()]
    stdout().print(make_table(["", f"{file.name} fits {card.name}"], rows))


def _remark_unexpected(keys: tuple[str, ...]) -> None:
    if keys:
        stderr().print(f"{len(keys)} unexpected keys left out: {', '.join(keys[:8])}", markup=False)
