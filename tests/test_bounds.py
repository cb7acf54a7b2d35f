"""The oldest dependencies that pyproject.toml allows are those that the tests run with."""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

TESTS = Path(__file__).parent
UNBOUND = {"ruff", "mypy", "pandas-stubs", "types-pyyaml", "types-requests"}  # check code, do not run it


def test_every_lower_bound_is_tested() -> None:
    pins = [Requirement(line) for line in (TESTS / "oldest.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(len(pin.specifier) == 1 for pin in pins)
    tested = {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    lowest: dict[str, Version] = {}
    for path in (TESTS.parent / "pyproject.toml", *TESTS.parent.glob("synth/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        optional = project.get("optional-dependencies", {}).values()
        for text in (*project.get("dependencies", ()), *(text for group in optional for text in group)):
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if not name.startswith("hmrbench") and name not in UNBOUND:
                (bound,) = requirement.specifier
                assert bound.operator == ">=", text
                lowest[name] = Version(bound.version)
    assert lowest == tested
