"""What numbers depend on besides the code of a network: versions of packages, the commit, the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from hmrbench import __version__

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "pycocotools", "fvcore", "smplx")


@cache
def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the packages that numbers depend on."""
    found = {"hmrbench": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def commit() -> str | None:
    """The commit of this checkout, with `-dirty` if files differ from it; None where this is no checkout."""
    top = Path(__file__).parents[1]
    if not (top / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(top)]
        head = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            [*run, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if dirty else "")


def usable_cpus() -> int:
    """Processors that this process may use, which can be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's model, as the system names it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        names = re.findall(r"model name\s*:\s*(.+)", text)
        return names[0].strip() if names else platform.processor() or platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def current() -> dict[str, Any]:
    """What a reader must know of the machine to judge a run's numbers."""
    return {
        "versions": versions(),
        "commit": commit(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
    }
