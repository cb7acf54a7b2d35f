"""`hmrbench.yaml`: values of options for all commands, below flags and `HMRBENCH_*` variables.

A key is an option's long name, with `-` or `_`. Where several commands have an option of one name, a key reaches
those that read the same variable, if any does: `device` is where networks run, not the rows that `table --device`
selects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from hmrbench.schema.faults import kind_of, refuse, unknown_key

_NOT_SET_HERE = ("help", "version", "install-completion", "show-completion")


def default_map(path: Path, content: Mapping[str, Any], ctx: typer.Context) -> dict[str, Any]:
    """What click takes from the file for each command and each command of a group.

    Raises:
        UsageError: names every key that no option has, with the nearest, and every value that is not of its option's
            kind.
    """
    options = _options(ctx)
    found: dict[str, Any] = {}
    faults: list[str] = []
    for given, value in content.items():
        key = given.replace("_", "-")
        if key not in options:
            faults.append(unknown_key(given, sorted(options)))
            continue
        try:
            values = [(place, option.name, _converted(value, option, ctx)) for place, option in options[key]]
        except ValueError as e:
            faults.append(f"{given}: {e}")
            continue
        for place, name, converted in values:
            inner = found
            for command in place:
                inner = inner.setdefault(command, {})
            inner[name] = converted
    refuse(path, faults)
    return found


def _options(ctx: typer.Context) -> dict[str, list[tuple[tuple[str, ...], Any]]]:
    """Each option's long name -> the commands that a key of this name reaches, with their option."""
    options: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for place, command in _commands(ctx.command):
        for option in command.params:
            name = next((o[2:] for o in option.opts if o.startswith("--")), None)
            if name is not None and name not in _NOT_SET_HERE:
                options.setdefault(name, []).append((place, option))
    return {name: [o for o in own if o[1].envvar] or own for name, own in options.items()}


def _commands(command: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below this one, groups themselves too, by the words that call them."""
    for name, inner in getattr(command, "commands", {}).items():
        yield (*place, name), inner
        yield from _commands(inner, (*place, name))


def _converted(value: Any, option: Any, ctx: typer.Context) -> Any:
    """The value as its option takes it; ValueError if it is of another kind."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"must be yes or no, not {kind_of(value)}")
        return value
    many = value if option.multiple and isinstance(value, list) else [value]
    for one in many:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise ValueError(f"must be {'one value or a list' if option.multiple else 'one value'}, not {kind_of(one)}")
    texts = [str(one) for one in many]
    try:
        option.process_value(ctx, texts if option.multiple else texts[0])
    except Exception as e:  # click's BadParameter, which typer may bring along under a name of its own
        if not hasattr(e, "format_message"):
            raise
        raise ValueError(getattr(e, "message", str(e))) from e
    return texts if option.multiple else texts[0]
