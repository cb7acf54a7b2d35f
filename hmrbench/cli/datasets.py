"""`hmrbench datasets`: what can be measured on, whether it is here, and how it gets here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.help import Command
from hmrbench.cli.make import make
from hmrbench.cli.options import (
    DataRoot,
    DatasetName,
    DatasetsFile,
    Json,
    Offline,
    print_json,
    print_text,
    show_table,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from hmrbench.data import Check
    from hmrbench.data.prepare import PartReport
    from hmrbench.schema import DatasetSpec


def app(guarded: Callable[[Callable[..., None]], Callable[..., None]]) -> typer.Typer:
    """The group: alone it lists, with a verb it acts."""
    group = typer.Typer(help="List data sets; get their files; check that they are here.", invoke_without_command=True)
    group.callback()(guarded(list_datasets))
    group.command("show", cls=Command)(guarded(show))
    group.command("check", cls=Command)(guarded(check))
    group.command("fetch", cls=Command)(guarded(fetch))
    group.command("prepare", cls=Command)(guarded(prepare))
    group.command("make", cls=Command)(guarded(make))
    return group


def list_datasets(
    ctx: typer.Context,
    datasets_file: DatasetsFile = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of files of data sets, for editors, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """List the data sets."""
    if ctx.invoked_subcommand is not None:
        return
    if schema:
        from hmrbench.schema.writing import datasets_schema

        print_json(datasets_schema())
        return
    from hmrbench.data import load_specs

    specs = load_specs(datasets_file)
    if json:
        print_json([s.model_dump(mode="json") for s in specs.values()])
        return
    rows = [[s.name, s.task, s.title, ", ".join(s.boxes), ", ".join(s.metrics)] for s in specs.values()]
    show_table(["data set", "task", "what", "boxes", "metrics"], rows)


def show(
    name: DatasetName,
    datasets_file: DatasetsFile = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print its spec as a file of data sets, to start from.")] = False,
    json: Json = False,
) -> None:
    """Show one data set: where its files lie, who reads them, what is measured, where it comes from."""
    from hmrbench.data import load_spec
    from hmrbench.schema.writing import as_yaml

    spec = load_spec(name, datasets_file)
    if json:
        print_json(spec.model_dump(mode="json"))
    elif yaml:
        print_text(as_yaml(spec))
    else:
        joints = spec.joint_set.joints if spec.task == "hpe" else ()
        rows: list[list[Any]] = [
            ["task", spec.task],
            ["what", spec.title],
            ["annotations", f"{spec.folder}/{spec.annotations}"],
            ["pictures", f"{spec.folder}/{spec.images}"],
            ["boxes", ", ".join(f"{k} ({v})" if v else k for k, v in spec.boxes.items())],
            ["metrics", ", ".join(spec.metrics)],
            ["joints", f"{len(joints)}: {', '.join(joints)}" if joints else None],
            ["known counts", ", ".join(f"{v:,} {k}" for k, v in spec.counts.items()) or None],
            ["licence", spec.licence],
        ]
        show_table(["", spec.name], rows)


def check(
    name: DatasetName, data_root: DataRoot = None, datasets_file: DatasetsFile = None, json: Json = False
) -> None:
    """Check a data set's files: present, whole, as many as they should be. Exit code 3 if one is missing."""
    from hmrbench.data import check_dataset, load_spec
    from hmrbench.metrics import find_metric

    spec = load_spec(name, datasets_file)
    for metric in spec.metrics:
        find_metric(metric, spec.file)
    checks = check_dataset(spec, data_root)
    if json:
        print_json([asdict(c) for c in checks])
    else:
        _show_checks(spec, checks)
    _refuse_bad(spec, checks)


def fetch(
    name: DatasetName,
    data_root: DataRoot = None,
    offline: Offline = False,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Download what of a data set is public, into the layout that `eval` expects; then check it.

    What is there already is left alone, so that it can simply be run again. Where a licence has to be
    accepted it prints page, file and what to type then, and ends with exit code 3.
    """
    from hmrbench.cli.downloads import download_bar
    from hmrbench.data import load_spec
    from hmrbench.data.prepare import fetch_dataset

    spec = load_spec(name, datasets_file)
    remark = stderr()
    with download_bar(remark) as progress:
        reports = fetch_dataset(
            spec,
            data_root,
            offline=offline,
            progress=progress,
            say=lambda text: remark.print(text, markup=False),
        )
    _finish(spec, reports, data_root, json)


def prepare(
    name: DatasetName,
    source: Annotated[
        Path,
        typer.Option("--from", metavar="DIR", help="Where the official archives or unpacked folders are."),
    ],
    data_root: DataRoot = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Take a data set out of its official archives or folders into the layout of `eval`; then check it.

    Only the pictures that the annotations name are taken. Exit code 3 if something is still missing.
    """
    from hmrbench.data import load_spec
    from hmrbench.data.prepare import prepare_dataset

    spec = load_spec(name, datasets_file)
    remark = stderr()
    reports = prepare_dataset(spec, source, data_root, say=lambda text: remark.print(text, markup=False))
    _finish(spec, reports, data_root, json)


def _finish(spec: DatasetSpec, reports: Sequence[PartReport], data_root: Path | None, json: bool) -> None:
    """Show what became of the parts; check the data set if all are there, else say what is missing."""
    from hmrbench.data import check_dataset
    from hmrbench.data.prepare import instructions
    from hmrbench.errors import DataError

    whole = all(r.whole for r in reports)
    if whole:
        stderr().print(f"checking {spec.name}", markup=False)
    checks = check_dataset(spec, data_root) if whole else []
    fields = ("part", "status", "files", "total", "source", "detail")
    parts: list[dict[str, Any]] = [{f: getattr(r, f) for f in fields} for r in reports]
    if json:
        print_json(
            {
                "dataset": spec.name,
                "licence": spec.licence,
                "parts": parts,
                "check": [asdict(c) for c in checks],
            }
        )
    else:
        cells = [
            [r.part, r.status, f"{r.files:,} of {'?' if r.total is None else f'{r.total:,}'}", r.source]
            for r in reports
        ]
        show_table(["part", "status", "files", "from"], cells)
        if checks:
            _show_checks(spec, checks)
        else:
            stdout().print(f"licence: {spec.licence}", markup=False)
    if not whole:
        for report in reports:
            if report.status in ("failed", "partial"):
                stderr().print(f"{report.part}: {report.detail}", markup=False, soft_wrap=True)
        if text := instructions(spec, reports):
            stderr().print(text, markup=False, soft_wrap=True)
        codes = [r.error.exit_code for r in reports if r.error]
        if codes and max(codes) < DataError.exit_code:
            raise typer.Exit(max(codes))
        raise DataError(f"{spec.name} is not complete: {', '.join(r.part for r in reports if not r.whole)}")
    _refuse_bad(spec, checks)


def _show_checks(spec: DatasetSpec, checks: Sequence[Check]) -> None:
    rows = [[c.part, c.status, c.found, c.expected, c.detail] for c in checks]
    show_table(["part", "status", "found", "expected", "remark"], rows)
    stdout().print(f"licence: {spec.licence}", markup=False)


def _refuse_bad(spec: DatasetSpec, checks: Sequence[Check]) -> None:
    from hmrbench.errors import DataError

    bad = [c for c in checks if c.bad]
    if bad:
        raise DataError(f"{spec.name}: {len(bad)} part(s) missing or corrupt, first: {bad[0].found}")
