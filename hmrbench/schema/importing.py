"""What a card or spec names by an import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hmrbench.errors import HmrbenchError, UsageError, said, unknown_name

_Part = TypeVar("_Part")


@contextmanager
def beside(file: Path | None) -> Iterator[None]:
    """Inside, modules in the folder of a card's or spec's file can be imported; the import path is then as it was."""
    before = list(sys.path)
    if file is not None:
        sys.path.insert(0, str(file.parent.resolve()))
        importlib.invalidate_caches()  # the folder may have got files since it was last looked at
    try:
        yield
    finally:
        sys.path[:] = before


def import_object(path: str, what: str, file: Path | None = None) -> Any:
    """The object at an import path, `package.module:name` or, for a whole module, `package.module`.

    Args:
        file: of the card or spec that names it; modules in its folder come first.

    Raises:
        UsageError: the module or the name in it cannot be had, or another module of that name is there already.
    """
    module, _, name = path.partition(":")
    try:
        with beside(file):
            found = importlib.import_module(module)
            _refuse_other_module(found, file)
            return getattr(found, name) if name else found
    except HmrbenchError as e:
        raise UsageError(f"{what} '{path}' cannot be imported: {e}") from e
    except (Exception, SystemExit) as e:  # whatever a foreign module raises when it is run
        raise UsageError(f"{what} '{path}' cannot be imported: {said(e)}") from e


def find_part(name: str, what: str, kind: type[_Part], known: Mapping[str, Any], file: Path | None = None) -> _Part:
    """The part of that name among the known ones, or the one at an import path.

    Args:
        what: such as `codec`, for messages.
        kind: of what class it must be.
        file: of the card or spec that names it.

    Raises:
        UsageError: nobody knows the name, or the path leads to nothing, or to what is not of the kind.
    """
    found = import_object(name, what, file) if ":" in name else known.get(name)
    if found is None:
        raise unknown_name(what, name, known)
    if not isinstance(found, kind):
        place = kind.__module__.removesuffix(f".{kind.__name__.lower()}")  # hmrbench.codecs.Codec, as it is imported
        raise UsageError(f"{what} '{name}' is a {type(found).__name__}, not a {place}.{kind.__name__}")
    return found


def _refuse_other_module(found: Any, file: Path | None) -> None:
    """Python keeps one module of a name: that of another folder, or of a package, would be taken without a word."""
    top = sys.modules[found.__name__.partition(".")[0]]
    here = [] if file is None else [file.parent / f"{top.__name__}.py", file.parent / top.__name__ / "__init__.py"]
    meant = next((path for path in here if path.is_file()), None)
    loaded = getattr(top, "__file__", None)
    if meant is not None and (loaded is None or not meant.samefile(loaded)):
        raise UsageError(f"there is a module '{top.__name__}' already ({loaded or 'built in'}); rename {meant}")
