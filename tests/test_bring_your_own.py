"""docs/bring-your-own.md, executed as it stands, in an empty folder, where only the installed package is seen."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NET = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 17, 1))

    def forward(self, x):
        return self.body(x)
"""


def install(target: Path) -> None:
    """The package's wheel, and the command; without the build backend what pyproject.toml says that the wheel holds."""
    text = (ROOT / "pyproject.toml").read_text()
    if importlib.util.find_spec("hatchling") is not None:
        built = target.with_name("built")
        built.mkdir(parents=True)
        code = "import hatchling.build, sys; hatchling.build.build_wheel(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(built)], cwd=ROOT, check=True, capture_output=True)
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:  # what `pip install --no-deps --target` does with a pure wheel
            archive.extractall(target)
    else:
        ignored = shutil.ignore_patterns("__pycache__", "_share")
        shutil.copytree(ROOT / "hmrbench", target / "hmrbench", ignore=ignored)
        included = text[text.index("[tool.hatch.build.targets.wheel.force-include]") :].splitlines()[1:]
        for line in included[: included.index("")]:
            source, place = re.findall(r'"([^"]+)"', line)
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
            copy(ROOT / source, target / place)
    command = re.search(r'^hmrbench = "([\w.]+):(\w+)"$', text, re.M)
    assert command is not None
    script(target / "bin" / "hmrbench", f"from {command[1]} import {command[2]} as main\nmain()\n")
    # What is on the registry is here already; a package in a folder is built and installed in earnest.
    script(
        target / "bin" / "pip",
        "import subprocess, sys\n"
        "assert sys.argv[1] == 'install', sys.argv\n"
        "import hmrbench\n"
        f"offline = ['--no-index', '--no-deps', '--no-build-isolation', '--quiet', '--target', {str(target)!r}]\n"
        "command = [sys.executable, '-m', 'pip', 'install', *offline, *sys.argv[2:]]\n"
        "sys.exit(0 if sys.argv[2:] == ['hmrbench'] else subprocess.call(command))\n",
    )


def script(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def own_things(folder: Path) -> None:
    """What a person has before: a network, two files of weights, annotated pictures."""
    (folder / "cards").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "cards" / "my_net.py").write_text(NET)
    space: dict[str, type[nn.Module]] = {}
    exec(NET, space)
    for name, seed in (("my", 0), ("new", 1)):
        torch.manual_seed(seed)
        save_file(space["Net"]().state_dict(), folder / f"{name}.safetensors")
    rng = np.random.default_rng(0)
    images, people = [], []
    for i in range(1, 9):
        cv2.imwrite(
            str(folder / "pictures" / f"{i}.jpg"), cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 120))
        )
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 96, "height": 120})
        points = np.column_stack([rng.uniform(15, 80, 17), rng.uniform(10, 110, 17), np.full(17, 2)]).round(1)
        box = {"bbox": [10, 5, 75, 110], "area": 6000}
        people.append({"id": i, "image_id": i, "category_id": 1, "keypoints": points.ravel().tolist(), **box})
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (folder / "annotations.json").write_text(json.dumps(content))


class Place:
    """A folder in which commands run that see the installed package alone."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HMRBENCH", "PYTHON"))}
        self.env = {
            **kept,
            "PATH": f"{target / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(target),
            "COLUMNS": "100",
        }
        self.env |= {"GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "OMP_NUM_THREADS": "1"}

    def run(self, command: str, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"$ {command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return " ".join(done.stdout.split())


@pytest.mark.slow
def test_the_page_from_installation_to_ci(tmp_path: Path) -> None:
    install(tmp_path / "site")
    own_things(tmp_path / "work")
    place = Place(tmp_path / "work", tmp_path / "site")
    where = place.run(f"{sys.executable} -c 'import hmrbench; print(hmrbench.__file__)'")
    assert where == str(tmp_path / "site" / "hmrbench" / "__init__.py")
    said: dict[str, str] = {}
    for kind, text in FENCE.findall(PAGE):
        name = re.match(r"# (\S+\.(?:yaml|yml|toml))\n", text)
        if name is not None:
            path = place.folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        else:
            assert kind == "console"
            for line in text.splitlines():
                assert line.startswith("$ ")
                said[line[2:]] = place.run(line[2:])
    assert "my.safetensors fits my-net" in said["hmrbench weights check my-net my.safetensors"]
    assert "8 samples" in said["hmrbench eval my-net -d mine --weights my.safetensors"]
    assert "my-net" in said["hmrbench table"]
    (row,) = csv.DictReader((place.folder / "table.csv").read_text().splitlines())
    assert row["model"] == "my-net"
    assert float(row["mine:PCK@0.1"]) >= 0
    assert int(row["params"]) == 545
    assert "passed: " in said["hmrbench check --baseline baseline.json --interval"]
    first, second = (said[f"hmrbench compare my-net {rest}"] for rest in ("--last 2", "my-net~1"))
    assert "8 images" in first
    assert "B is " in second or "B equals A" in second

    # the workflow, step by step, as CI would in a checkout
    for line in workflow(place.folder / ".github" / "workflows" / "benchmark.yml"):
        place.run(line)
    assert (tmp_path / "site" / "my_pose" / "models" / "my_net.yaml").is_file()
    assert ElementTree.parse(place.folder / "gate.xml").getroot().get("failures") == "0"
    assert "✅" in (place.folder / "summary.md").read_text()
    # and a network that got larger does not pass
    net = place.folder / "my_pose" / "my_net.py"
    net.write_text(NET.replace("nn.Conv2d(8, 17, 1)", "nn.Conv2d(8, 17, 1), nn.Conv2d(17, 17, 1)"))
    *_, install_line, _, profile, check = workflow(place.folder / ".github" / "workflows" / "benchmark.yml")
    place.run(f"{install_line} --upgrade")
    place.run(profile)
    place.run(check, code=4)


def workflow(path: Path) -> list[str]:
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def test_every_row_of_the_last_table_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No files at all: the call in Python, word for word."""
    own_things(tmp_path)
    (tmp_path / "mine.yaml").write_text("mine: {task: hpe, annotations: annotations.json, images: pictures}\n")
    monkeypatch.chdir(tmp_path)
    call = re.search(r"`(hmrbench\.evaluate\(net, .*?\))` in Python", PAGE)
    assert call is not None
    import hmrbench

    space: dict[str, type[nn.Module]] = {}
    exec(NET, space)
    assert eval(call[1], {"hmrbench": hmrbench, "net": space["Net"]()}).samples == 8
