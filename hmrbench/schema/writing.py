"""Cards and specs as YAML, and the JSON schemas of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from hmrbench.schema import DatasetSpec, EncoderWeights, ModelCard


def as_yaml(entry: ModelCard | DatasetSpec) -> str:
    """A card or spec as a file of its own says it, with everything that may be said but what is empty."""
    dumped = entry.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    fields = {k: v for k, v in dumped.items() if v not in ("", [], {})}
    if isinstance(entry, DatasetSpec):
        return _dumped({entry.name: {**fields, "boxes": dict(entry.boxes)}})  # of which none is no file
    return _dumped({"family": fields.pop("family"), "models": {entry.name: fields}})


def _dumped(content: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return text


def cards_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a file of model cards, for editors."""
    card, parts = _schema_of(ModelCard)
    encoder, more = _schema_of(EncoderWeights)
    some = {"type": "object", "properties": card["properties"], "additionalProperties": False}
    properties = {
        "family": {"type": "string"},
        "defaults": {**some, "description": "What holds for all models of the file."},
        "sizes": {"type": "object", "additionalProperties": some, "description": "What holds for those of one size."},
        # What every card needs may stand above, for all.
        "models": {"type": "object", "additionalProperties": {**card, "required": []}},
        "encoders": {"type": "object", "additionalProperties": encoder["properties"]["sources"]},
    }
    return _schema("hmrbench model cards", {"properties": properties, "additionalProperties": False}, parts | more)


def datasets_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a file of data sets, for editors."""
    spec, parts = _schema_of(DatasetSpec)
    return _schema("hmrbench data sets", {"additionalProperties": spec}, parts)


def _schema_of(kind: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of an entry, whose name is the key under which it stands, and those of its parts."""
    found = kind.model_json_schema()
    parts: dict[str, Any] = found.pop("$defs", {})
    found["properties"].pop("name")
    found["required"] = [key for key in found.get("required", ()) if key != "name"]
    return found, parts


def _schema(title: str, content: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, "type": "object"}
    return {**head, **content, "$defs": parts}
