"""The command line: one file per command; each imports what is heavy when it is called, not before."""

from __future__ import annotations

import functools
from collections.abc import Callable
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
    models,
    plot,
    predict,
    profile,
    report,
    score,
    table,
    train,
    weights,
)
from hmrbench.errors import HmrbenchError, Stopped

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


@app.callback()
def _settings(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    path = Path("hmrbench.yaml")
    if path.is_file():  # flag > HMRBENCH_* variable > this file > default
        from hmrbench.schema import read_yaml

        given = {k.replace("-", "_"): v for k, v in read_yaml(path).items()}
        ctx.default_map = dict.fromkeys(ctx.command.commands, given)  # type: ignore[attr-defined]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose known failures end with one line on stderr and their exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HmrbenchError as e:
            typer.echo(f"error: {e}", err=True)
            raise typer.Exit(e.exit_code) from e
        except BrokenPipeError:
            raise
        except OSError as e:  # a folder that may not be written, a full disk
            if e.strerror is None:
                raise
            typer.echo(f"error: {f'{e.filename}: ' if e.filename else ''}{e.strerror}", err=True)
            raise typer.Exit(1) from e
        except KeyboardInterrupt as e:
            stopped = e if isinstance(e, Stopped) else Stopped()
            typer.echo("interrupted" if stopped.exit_code == 130 else f"stopped by {stopped}", err=True)
            raise typer.Exit(stopped.exit_code) from e

    return run


_GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "weights": (
        "Get, convert and check checkpoint files.",
        {"fetch": weights.fetch, "convert": weights.convert, "check": weights.check},
    ),
    "body": ("Install and list body models.", {"install": body.install, "list": body.list_bodies}),
}
_COMMANDS: dict[str, Callable[..., None]] = {
    "models": models.models,
    "show": models.show,
    "eval": eval.evaluate,
    "score": score.score,
    "predict": predict.predict,
    "table": table.table,
    "profile": profile.profile,
    "plot": plot.plot,
    "report": report.report,
    "compare": compare.compare,
    "check": check.check,
    "train": train.train,
    "demo": demo.demo,
    "env": env.env,
}

for _name, _command in _COMMANDS.items():
    app.command(_name)(guarded(_command))
app.add_typer(datasets.app(guarded), name="datasets")
for _name, (_help, _group) in _GROUPS.items():
    _sub = typer.Typer(help=_help, no_args_is_help=True)
    for _verb, _command in _group.items():
        _sub.command(_verb)(guarded(_command))
    app.add_typer(_sub, name=_name)
