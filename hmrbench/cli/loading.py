"""A line on the terminal while PyTorch is loaded: the first time after an install that takes many seconds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LINE = "loading PyTorch ..."


class _Announcer(MetaPathFinder):
    """Finds nothing itself; stands before the finders until torch is looked for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            sys.stderr.write(_LINE)
            sys.stderr.flush()
            try:
                load(module)
            finally:
                sys.stderr.write(f"\r{' ' * len(_LINE)}\r")
                sys.stderr.flush()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def announce() -> None:
    """From now on the first import of torch shows a line on stderr until it is done, where that is a terminal."""
    if sys.stderr.isatty() and "torch" not in sys.modules:
        sys.meta_path.insert(0, _Announcer())
