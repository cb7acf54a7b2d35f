"""`hmrbench datasets`: what can be measured on, and whether it is here."""

from __future__ import annotations

from collections.abc import Callable

import typer

from hmrbench.cli.options import (
    DataRoot,
    DatasetName,
    DatasetsFile,
    Json,
    make_table,
    print_json,
    stdout,
)


def app(guarded: Callable[[Callable[..., None]], Callable[..., None]]) -> typer.Typer:
    """The group: alone it lists, with a verb it acts."""
    group = typer.Typer(help="List data sets; check that their files are here.", invoke_without_command=True)
    group.callback()(guarded(list_datasets))
    group.command("check")(guarded(check))
    return group


def list_datasets(ctx: typer.Context, datasets_file: DatasetsFile = None, json: Json = False) -> None:
    """List the data sets."""
    if ctx.invoked_subcommand is not None:
        return
    from hmrbench.data import load_specs

    specs = load_specs(datasets_file)
    if json:
        print_json([s.model_dump(mode="json") for s in specs.values()])
        return
    rows = [[s.name, s.task, s.title, ", ".join(s.boxes), ", ".join(s.metrics)] for s in specs.values()]
    stdout().print(make_table(["data set", "task", "what", "boxes", "metrics"], rows))


def check(
    name: DatasetName, data_root: DataRoot = None, datasets_file: DatasetsFile = None, json: Json = False
) -> None:
    """Check a data set's files: present, whole, as many as they should be. Exit code 3 if something is missing."""
    from dataclasses import asdict

    from hmrbench.data import check_dataset, load_spec
    from hmrbench.errors import DataError

    spec = load_spec(name, datasets_file)
    checks = check_dataset(spec, data_root)
    if json:
        print_json([asdict(c) for c in checks])
    else:
        rows = [[c.part, c.status, c.found, c.expected, c.detail] for c in checks]
        stdout().print(make_table(["part", "status", "found", "expected", "remark"], rows))
        stdout().print(f"licence: {spec.licence}", markup=False)
    bad = [c for c in checks if c.bad]
    if bad:
        raise DataError(f"{spec.name}: {len(bad)} part(s) missing or corrupt, first: {bad[0].found}")
