"""`hmrbench env`: what numbers made on this machine depend on, and installations that cannot work."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any

from hmrbench.cli.options import Json, print_json, stdout
from hmrbench.errors import HmrbenchError

# (module, words of its failure, what that means, the cure)
_KNOWN_FAILURES = (
    (
        "torchvision",
        "torchvision::nms does not exist",
        "torch and torchvision are of different builds",
        "pip install --force-reinstall torch torchvision",
    ),
    (
        "torchvision",
        "undefined symbol",
        "torch and torchvision are of different builds",
        "pip install --force-reinstall torch torchvision",
    ),
    (
        "cv2",
        "libGL",
        "opencv-python wants a display library",
        "pip uninstall -y opencv-python; pip install opencv-python-headless",
    ),
    (
        "cv2",
        "numpy.core.multiarray failed",
        "OpenCV and numpy do not fit",
        "pip install --upgrade opencv-python-headless numpy",
    ),
)


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "XDG_CACHE_HOME")


def env(json: Json = False) -> None:
    """Print versions, device, caches and settings. Exit code 1, with the cure, if something is broken."""
    found = describe()
    if json:
        print_json(found)
    else:
        out = stdout()
        for title, content in found.items():
            if isinstance(content, dict):
                out.print(title, style="bold")
                for name, value in content.items():
                    out.print(f"  {name:26s} {value}", markup=False, soft_wrap=True)
    if found["problems"]:
        raise HmrbenchError("; ".join(f"{p['problem']}; cure: {p['cure']}" for p in found["problems"]))


def describe() -> dict[str, Any]:
    """Versions, machine, folders and settings, and the problems of this installation."""
    from hmrbench import environment
    from hmrbench.fetch import fetch
    from hmrbench.schema.reading import share_dir

    problems = find_problems()
    return {
        "versions": environment.versions(),
        "machine": {k: v for k, v in environment.current().items() if k != "versions"} | _devices(),
        "folders": {
            "cards and data set specs": str(share_dir()),
            "cache": str(fetch.cache_dir()),
            "data root": os.environ.get("HMRBENCH_DATA", "not set"),
            "runs": os.environ.get("HMRBENCH_RUNS", "runs"),
        },
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith("HMRBENCH_")},
        "network": {"offline": "yes" if fetch.is_offline() else "no", **_network_settings()},
        "problems": problems,
    }


def _network_settings() -> dict[str, str]:
    """What decides how files are fetched: proxies, Hugging Face's switches; no passwords, no tokens."""
    found = {}
    for name, value in sorted(os.environ.items()):
        if name.lower() in _PROXIES or name.startswith(("HF_", "HUGGINGFACE_")) or name in _CERTIFICATES:
            secret = any(word in name for word in ("TOKEN", "SECRET", "KEY"))
            found[name] = "set, not shown" if secret else re.sub(r"//[^/@]*@", "//***@", value)
    return found


def find_problems() -> list[dict[str, str]]:
    """What keeps this installation from working: what fails, what it means, the one line that cures it."""
    problems = []
    for module in ("torch", "torchvision", "timm", "cv2", "pycocotools.coco", "fvcore", "smplx"):
        try:
            importlib.import_module(module)
        except Exception as e:  # a broken binary can raise anything
            problem, cure = f"{module} cannot be imported", f"pip install --force-reinstall {module}"
            for name, words, meaning, known_cure in _KNOWN_FAILURES:
                if name == module and words in str(e):
                    problem, cure = meaning, known_cure
            problems.append({"module": module, "problem": problem, "message": str(e).splitlines()[0], "cure": cure})
    return problems


def _devices() -> dict[str, str]:
    try:
        import torch
    except Exception as e:  # reported as a problem
        return {"torch": f"not importable: {e}"}
    if not torch.cuda.is_available():
        return {"device": "cpu", "cpu threads": str(torch.get_num_threads())}
    return {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
