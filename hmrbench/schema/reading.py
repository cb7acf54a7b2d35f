"""The YAML files that ship with the package, or that a user wrote: plain data within bounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hmrbench.errors import UsageError


def share_dir() -> Path:
    """The folder that holds `models/` and `datasets.yaml`: inside the wheel, or the top of a checkout."""
    packaged = Path(__file__).parents[1] / "_share"
    return packaged if packaged.is_dir() else Path(__file__).parents[2]


# What a YAML file may hold: enough for any card file, and refused before it takes memory or nests too deep.
MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000  # counted as if every alias were written out

_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))
_LONGEST_NUMBER = 100  # digits; Python turns longer ones into numbers slowly, or not at all


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Mappings with text for keys, each once, lists, text, numbers, yes and no; dates stay text.

    The C loader reads the same language as the other, ten times as fast.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; a tag that no card needs, or a value that is not of its tag, is an error."""
        if node.tag not in _TAGS:
            raise _fault(f"the tag {node.tag} is not allowed", node)
        if node.tag.endswith((":int", ":float")) and len(str(node.value)) > _LONGEST_NUMBER:
            raise _fault(f"a number of more than {_LONGEST_NUMBER} digits", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as e:
            raise _fault(f"this is not what its tag says ({e})", node) from e

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; two equal keys would hide one another."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
                raise _fault("a key must be text (put it in quotes)", key)
            if key.value in seen:
                raise _fault(f"the key '{key.value}' stands here twice", key)
            seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_DATE = "tag:yaml.org,2002:timestamp"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(what: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; empty where the file says nothing.

    Raises:
        UsageError: the file is missing, not YAML in UTF-8, not a mapping, or larger or deeper than the bounds above.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise UsageError(f"{path}: not readable as YAML (it is no regular file)")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path}: not readable as YAML (more than {MAX_BYTES:,} bytes)")
        text = data.decode("utf-8-sig")
        _check_size(text)
        content = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        words = " ".join(filter(None, (e.context, e.problem)))
        raise UsageError(f"{path}: not readable as YAML: {words}{where}") from e
    except (yaml.YAMLError, OSError, ValueError) as e:  # ValueError: no UTF-8, a zero byte in the path
        raise UsageError(f"{path}: not readable as YAML ({' '.join(str(e).split())})") from e
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: must map names to what they are")
    return content


def _check_size(text: str) -> None:
    """Refuse, from the parser's events alone, what would nest too deep or grow too large; MarkedYAMLError then."""
    sizes: dict[str | None, int | None] = {}  # of what an anchor names; None while that is still open
    open_: list[tuple[str | None, int]] = []  # the anchor of each collection around, and the values before it
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)  # one that names nothing is refused on loading
            if size is None:
                raise _fault(f"'{event.anchor}' holds itself", event)
            count += size
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
            if event.anchor:
                sizes[event.anchor] = None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(open_) > MAX_DEPTH:
            raise _fault(f"it nests deeper than {MAX_DEPTH}", event)
        if count > MAX_VALUES:
            raise _fault(f"it has more than {MAX_VALUES:,} values, aliases written out", event)
