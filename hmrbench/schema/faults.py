"""Cards and specs from the fields of a file, and all that is wrong with those, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from hmrbench.errors import UsageError, nearest

_Model = TypeVar("_Model", bound=BaseModel)


def validate(kind: type[_Model], path: Path, name: str, fields: Mapping[str, Any]) -> _Model:
    """A card or spec from its fields.

    Raises:
        UsageError: names the file, the entry and every field that is not right.
    """
    found, faults = validate_all(kind, {name: fields})
    refuse(path, faults)
    return found[name]


def validate_all(kind: type[_Model], entries: Mapping[str, Any]) -> tuple[dict[str, _Model], list[str]]:
    """Cards or specs by name, from the fields of each, and all that is wrong with the others, for `refuse`."""
    found: dict[str, _Model] = {}
    faults: dict[str, list[str]] = {}  # what is wrong -> the entries where it is
    for name, fields in entries.items():
        if not isinstance(fields, Mapping):
            faults.setdefault(f"must map its fields to what they are, not be {kind_of(fields)}", []).append(name)
            continue
        if "name" in fields:
            faults.setdefault("has a key name; its name is the key under which it stands", []).append(name)
        try:
            found[name] = kind(**{**fields, "name": name})
        except ValidationError as e:
            for fault in e.errors():
                faults.setdefault(describe_fault(kind, fault), []).append(name)
    return found, [f"{_names(names)} {what}" for what, names in faults.items()]


def refuse(path: Path, faults: Iterable[str]) -> None:
    """One UsageError for all that is wrong with a file, if anything is: on one line if it is one thing."""
    all_ = list(faults)
    if all_:
        raise UsageError(
            f"{path}: {all_[0]}" if len(all_) == 1 else "\n  ".join([f"{path}: {len(all_)} faults", *all_])
        )


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What is wrong with a key that nobody knows, and the nearest one that there is."""
    names = list(known)
    near = nearest(key, names, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}" if names else "there are none"
    return f"unknown key {key}; {hint}"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{n}'" for n in names[:3]) + more


def kind_of(value: Any) -> str:
    """What a value of a YAML file is, in words."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "yes or no", type(None): "empty"}
    return names.get(type(value), "a number")


def describe_fault(kind: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """One of pydantic's errors in words: where, what, and for an unknown key the nearest one that there is."""
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"is not right at {where}: {unknown_key(str(fault['loc'][-1]), _keys(kind, fault['loc'][:-1]))}"
    return f"is not right at {where}: {fault['msg']}"


def _keys(kind: Any, place: Iterable[str | int]) -> list[str]:
    """The keys that a model has at a place inside it."""
    for step in place:  # an index, or a name in a mapping of models, leads no further
        if step in kind.model_fields:
            kind = next(_models_in(kind.model_fields[step].annotation), None)
        if kind is None:
            return []
    return [k for k in kind.model_fields if k != "name"]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _models_in(kind: Any) -> Iterator[Any]:
    """The models that a type such as `tuple[Source, ...]` or `Source | None` is made of."""
    if _is_model(kind):
        yield kind
    for inner in get_args(kind):
        yield from _models_in(inner)
