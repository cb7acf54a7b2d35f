"""The command line: one file per command; each imports what is heavy when it is called, not before."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from hmrbench import __version__
from hmrbench.__main__ import main as main
from hmrbench.cli import (
    body,
    check,
    compare,
    datasets,
    demo,
    env,
    eval,
    export,
    models,
    plot,
    predict,
    profile,
    report,
    reproduce,
    score,
    table,
    train,
    weights,
)
from hmrbench.cli.help import Command
from hmrbench.cli.options import only_json
from hmrbench.errors import HmrbenchError, Stopped, printable

SETTINGS = "hmrbench.yaml"  # in the working folder

app = typer.Typer(
    name="hmrbench",
    help="Benchmark human pose estimation and human mesh recovery networks: accuracy, cost, and a gate for CI.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hmrbench {__version__}")
        raise typer.Exit


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose known failures end with one line on stderr and their exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with only_json() if kwargs.get("json") else nullcontext():
                command(*args, **kwargs)
        except HmrbenchError as e:
            _complain(str(e))
            raise typer.Exit(e.exit_code) from e
        except BrokenPipeError:
            raise
        except OSError as e:  # a folder that may not be written, a full disk
            if e.strerror is None:
                raise
            _complain(f"{f'{e.filename}: ' if e.filename else ''}{e.strerror}")
            raise typer.Exit(1) from e
        except KeyboardInterrupt as e:
            stopped = e if isinstance(e, Stopped) else Stopped()
            typer.echo("interrupted" if stopped.exit_code == 130 else f"stopped by {stopped}", err=True)
            raise typer.Exit(stopped.exit_code) from e

    return run


def _complain(what: str) -> None:
    typer.echo(f"error: {printable(what)}", err=True)


@app.callback()
@guarded
def _settings(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    if os.path.lexists(SETTINGS):  # flag > HMRBENCH_* variable > this file > default
        from hmrbench.cli.settings import default_map
        from hmrbench.schema.reading import read_yaml

        ctx.default_map = default_map(Path(SETTINGS), read_yaml(Path(SETTINGS)), ctx)


_GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "weights": (
        "Get, convert and check checkpoint files.",
        {"fetch": weights.fetch, "convert": weights.convert, "check": weights.check},
    ),
    "body": (
        "Install and list body models, and get mesh matrices.",
        {"install": body.install, "fetch": body.fetch, "list": body.list_bodies},
    ),
}
_COMMANDS: dict[str, Callable[..., None]] = {
    "models": models.models,
    "show": models.show,
    "eval": eval.evaluate,
    "score": score.score,
    "predict": predict.predict,
    "export": export.export,
    "table": table.table,
    "profile": profile.profile,
    "plot": plot.plot,
    "report": report.report,
    "compare": compare.compare,
    "check": check.check,
    "reproduce": reproduce.reproduce,
    "train": train.train,
    "demo": demo.demo,
    "env": env.env,
}

for _name, _command in _COMMANDS.items():
    app.command(_name, cls=Command)(guarded(_command))
app.add_typer(datasets.app(guarded), name="datasets")
for _name, (_help, _group) in _GROUPS.items():
    _sub = typer.Typer(help=_help, no_args_is_help=True)
    for _verb, _command in _group.items():
        _sub.command(_verb, cls=Command)(guarded(_command))
    app.add_typer(_sub, name=_name)
