"""Commands: what they print, their exit codes, that --json is one document and nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from hmrbench import __version__
from hmrbench.cli import app
from hmrbench.results import runs as results

TESTS = Path(__file__).parent


def hmrbench(*args: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "80", **(env or {})})


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['hmrbench', '--help']\n"
        "from hmrbench.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'pandas', 'cv2', 'timm', 'scipy', 'numpy'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), file=sys.stderr)\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr
    assert "eval" in done.stdout


def test_version_and_module() -> None:
    assert hmrbench("--version").stdout.strip() == f"hmrbench {__version__}"
    done = subprocess.run([sys.executable, "-m", "hmrbench", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"hmrbench {__version__}"


@pytest.mark.parametrize("command", ["models", "show", "datasets", "eval", "score", "table", "weights", "env"])
def test_every_command_has_help(command: str) -> None:
    result = hmrbench(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_models_json() -> None:
    rows = json.loads(hmrbench("models", "gmfpose*-s3", "ViTPose-S", "--json").stdout)
    assert [r["name"] for r in rows] == ["gmfpose-t-s3", "gmfpose-s-s3", "gmfpose-b-s3", "vitpose-s"]
    assert set(rows[0]) == {"name", "task", "family", "size", "stages", "input", "params", "published"}
    assert rows[0]["params"] == 7_768_368 + 1_873_169  # official encoder prefix, classic decoder on 200 channels
    assert rows[0]["published"][0]["value"] == 75.7
    assert rows[0]["input"] == "256x192"


def test_models_fits_80_columns() -> None:
    result = hmrbench("models", "vm*")
    assert "vmpose-b-s4" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_show() -> None:
    text = re.sub(" {3,}", "    ", hmrbench("show", "swinpose-s-s3").stdout)
    for words in (
        "stage 2    192x32x24",
        "384x16x12",
        "17x64x48",
        "AP 74.6",
        "arXiv 2510.12660",
        "TruncHierVFM",
        "assumed",
        "36.10",
    ):
        assert words in text, words
    content = json.loads(hmrbench("show", "swinpose-s-s3", "--json").stdout)
    assert content["params"] == 36_096_747
    assert [s["part"] for s in content["shapes"]] == ["stage 1", "stage 2", "stage 3", "encoder", "neck", "head"]


def test_datasets() -> None:
    assert "coco-val" in hmrbench("datasets").stdout
    assert "coco-val" in [d["name"] for d in json.loads(hmrbench("datasets", "--json").stdout)]


def test_datasets_check(tiny_coco: Path) -> None:
    assert hmrbench("datasets", "check", "coco-val", "--data-root", tiny_coco).exit_code == 0
    rows = json.loads(hmrbench("datasets", "check", "coco-val", "--data-root", tiny_coco, "--json").stdout)
    assert rows[0] == {
        "part": "annotations",
        "status": "partial",
        "found": "6 instances",
        "expected": "6,352",
        "detail": "",
    }
    (tiny_coco / "val2017" / "000000000001.jpg").unlink()
    result = hmrbench("datasets", "check", "coco-val", env={"HMRBENCH_DATA": str(tiny_coco)})
    assert result.exit_code == 3
    assert "000000000001.jpg" in result.stderr


def run_eval(coco: Path, cards: Path, runs: Path, *args: object, env: dict[str, str] | None = None) -> Result:
    fixed = ("--dataset", "coco-val", "--data-root", coco, "--models-dir", cards, "--runs", runs, "--device", "cpu")
    return hmrbench("eval", *args, *fixed, env=env)


def test_eval_several_models(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    result = run_eval(tiny_coco, tiny_cards, tmp_path / "r", "tiny-[ab]", "--weights", "random", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [r["model"] for r in rows] == ["tiny-a", "tiny-b"]
    assert {r["weights"] for r in rows} == {"random"}
    assert len(results.load_runs(tmp_path / "r", "eval")) == 2


def test_a_folder_that_cannot_be_written_is_named(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    result = run_eval(tiny_coco, tiny_cards, tmp_path / "file" / "runs", "tiny-a", "--weights", "random")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/file")
    assert "Not a directory" in result.stderr


def test_a_run_that_cannot_be_written_in_the_end_is_printed(
    tiny_coco: Path, tiny_cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_json", fail)
    args = ("tiny-a", "tiny-b", "--weights", "random", "--json")
    result = run_eval(tiny_coco, tiny_cards, tmp_path / "r", *args)
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [r["model"] for r in rows] == ["tiny-a", "tiny-b"]
    assert "AP" in rows[0]["metrics"]
    assert f"the run in {tmp_path / 'r'} could not be written (No space left on device)" in result.stderr
    assert "--resume goes on from there" in result.stderr
    profiled = hmrbench(
        "profile", "tiny-a", "--models-dir", tiny_cards, "--runs", tmp_path / "r", "--repeats", 0, "--json"
    )
    assert profiled.exit_code == 1
    assert json.loads(profiled.stdout)[0]["params"] > 0
    assert "No space left" in profiled.stderr


def test_a_damaged_record_is_named_and_passed_over_by_every_command(
    tiny_coco: Path, tiny_cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs, cards = tmp_path / "r", ("--models-dir", tiny_cards)
    run_eval(tiny_coco, tiny_cards, runs, "tiny-a", "tiny-b", "--weights", "random")
    hmrbench("profile", "tiny-a", *cards, "--runs", runs, "--repeats", 0)
    for command in (
        ("table",), ("table", "--json"), ("plot", "--untrained"), ("report",), ("compare", "tiny-a", "tiny-b"),
        ("check", "--baseline", "b.json", "--update"), ("check", "--baseline", "b.json"),
    ):  # fmt: skip
        damaged = runs / f"eval-{'-'.join(command).replace('.', '-')}-{'0' * 12}.json"
        damaged.write_text('{"schema": 1, "kind": "eval"')
        more = () if command[0] in ("compare", "check") else cards
        result = hmrbench(*command, "--runs", runs, *more)
        assert result.exit_code == 0, result.output
        damaged.unlink()


def test_names_with_capitals_are_found_by_every_command(
    tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.yaml").write_text(
        "family: Mine\ndefaults: {task: hpe, size: t, input: [64, 48], licence: none, build: 'tiny_net:build'}\n"
        "models:\n  MyNet-A: {paper_name: My}\n  MyNet-B: {paper_name: My B}\n"
    )
    (tmp_path / "sets.yaml").write_text(
        "My-Set: {task: hpe, title: x, reader: coco, folder: ., licence: x, images: val2017, "
        "metrics: [coco-keypoints], annotations: annotations/person_keypoints_val2017.json}\n"
    )
    cards, sets = ("--models-dir", tmp_path / "cards"), ("--datasets-file", tmp_path / "sets.yaml")
    common = (*cards, *sets, "--runs", "r", "--data-root", tiny_coco, "--weights", "random", "--json")
    for names, dataset in ((("MyNet-A", "MyNet-B"), "My-Set"), (("mynet-*",), "my-set")):
        result = hmrbench("eval", *names, "-d", dataset, *common)
        assert result.exit_code == 0, result.stderr
        rows = json.loads(result.stdout)
        assert [(r["model"], r["dataset"]) for r in rows] == [("MyNet-A", "My-Set"), ("MyNet-B", "My-Set")]
    for command in (
        ("models", "MyNet*", *cards), ("models", "mynet-a", *cards), ("show", "MYNET-A", *cards),
        ("profile", "MyNet-*", *cards, "--runs", "r", "--repeats", 0),
        ("table", "MyNet-*", *cards, "--runs", "r"), ("table", "mynet-a", *cards, "--runs", "r"),
        ("plot", "MyNet-*", *cards, "--runs", "r", "--untrained"), ("report", "MyNet*", *cards, "--runs", "r"),
        ("compare", "MyNet-A", "mynet-b", "--runs", "r"),
        ("compare", "MyNet-A", "MyNet-B", "--runs", "r", "-d", "my-set"),
        ("datasets", "check", "MY-SET", *sets, "--data-root", tiny_coco),
    ):  # fmt: skip
        result = hmrbench(*command)
        assert result.exit_code == 0, (command, result.output)


def test_eval_prints_a_table_of_80_columns(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    result = run_eval(tiny_coco, tiny_cards, tmp_path, "tiny-a", "--weights", "random", "--boxes", "gt", "--limit", "3")
    assert "tiny-a" in result.stdout
    assert "PARTIAL" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_one_failing_model_does_not_stop_the_others(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    result = run_eval(
        tiny_coco, tiny_cards, tmp_path, "tiny-nan", "tiny-b", "--weights", "random", "--no-flip", "--json"
    )
    assert result.exit_code == 1
    assert [r["model"] for r in json.loads(result.stdout)] == ["tiny-b"]
    assert "not finite" in result.stderr


def test_save_predictions_then_score(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    args = ("tiny-a", "--weights", "random", "--json", "--save-predictions", file)
    row = json.loads(run_eval(tiny_coco, tiny_cards, tmp_path / "r", *args).stdout)[0]
    scored = hmrbench("score", file, "--dataset", "coco-val", "--data-root", tiny_coco, "--json")
    assert json.loads(scored.stdout)[0]["metrics"] == row["metrics"]
    assert set(row) == set(json.loads(scored.stdout)[0])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("eval", "swinpos-s-s3", "-d", "coco-val", "--weights", "random"), 2, "did you mean swinpose-s-s3"),
        (("eval", "swinpose-s-s3", "-d", "coco-vol", "--weights", "random"), 2, "did you mean coco-val"),
        (("eval", "swinpose-s-s3", "-d", "coco-val"), 3, "nttcom/TruncHierVFM"),
        (
            ("eval", "swinpose-s-s3", "-d", "coco-val", "--weights", "random", "--data-root", "no"),
            3,
            "no such data root",
        ),
        (("eval", "swinpose-s-s3", "-d", "coco-val", "--weights", "random", "--boxes", "x"), 2, "no 'x' boxes"),
        (("eval", "swinpose-s-s3", "-d", "coco-val", "--batch-size", "0", "--weights", "random"), 2, "batch size"),
        (("eval", "swinpose-s-s3"), 2, "--dataset"),
        (("show", "resnet"), 2, "unknown model 'resnet'"),
        (("weights", "check", "vitpose-s", "none.pth"), 3, "none.pth"),
        (("weights", "fetch", "vitpose-x"), 2, "did you mean vitpose"),
        (("weights", "fetch", "hmr2-h", "--variant", "hmr2.0c"), 2, "did you mean hmr2.0"),
        (("weights", "fetch", "vitpose-s", "--offline"), 3, "offline, and"),
        (("datasets", "fetch", "coco-vol"), 2, "did you mean coco-val"),
        (("datasets", "prepare", "3dpw-test"), 2, "--from"),
        (("datasets", "prepare", "3dpw-test", "--from", "nowhere"), 3, "nowhere: no such folder or archive"),
        (("score", "none.json", "-d", "coco-val"), 3, "none.json: file of predictions missing"),
        (("table", "--runs", "nowhere"), 3, "no runs here"),
        (("models", "--models-dir", "nowhere"), 2, "nowhere"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_bad_input_has_its_message_and_exit_code(
    args: tuple[str, ...], code: int, words: str, tiny_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hmrbench(*args, env={"HMRBENCH_DATA": str(tiny_coco)})
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_flag_beats_variable_beats_file_beats_default(
    tiny_coco: Path, tiny_cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ("tiny-a", "--weights", "random", "--json")

    def batch_size(*more: object, env: dict[str, str] | None = None) -> int:
        result = run_eval(tiny_coco, tiny_cards, tmp_path / "r", *args, *more, env=env)
        return int(json.loads(result.stdout)[0]["batch_size"])

    assert batch_size() == 8
    Path("hmrbench.yaml").write_text("batch-size: 3\n")
    assert batch_size() == 3
    assert batch_size(env={"HMRBENCH_BATCH_SIZE": "4"}) == 4
    assert batch_size("--batch-size", 5, env={"HMRBENCH_BATCH_SIZE": "4"}) == 5


def test_weights_convert_and_check(tmp_path: Path) -> None:
    from test_checkpoints import save, seeded_layout

    official = save({"state_dict": seeded_layout("vitpose_S")}, tmp_path / "official.pth")
    ours = tmp_path / "ours.safetensors"
    result = hmrbench("weights", "convert", official, ours)
    assert result.exit_code == 0, result.stderr
    assert "vitpose-s" in result.stdout
    found = json.loads(hmrbench("weights", "check", "vitpose-s", ours, "--json").stdout)
    assert (found["layout"], found["unexpected"]) == ("hmrbench", [])
    wrong = hmrbench("weights", "check", "swinpose-t-s2", ours)
    assert wrong.exit_code == 3
    assert "missing" in wrong.stderr
    junk = save({"conv1.weight": torch.zeros(1)}, tmp_path / "junk.pth")
    assert hmrbench("weights", "convert", junk, tmp_path / "x.safetensors").exit_code == 3
    encoder = save({"model": seeded_layout("swin_tiny_microsoft")}, tmp_path / "swin.pth")
    result = hmrbench("weights", "convert", encoder, tmp_path / "swin.safetensors", "--json")
    assert json.loads(result.stdout)["model"] == "swin-t"


def test_env_shows_versions_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(hmrbench("env", "--json", env={"HMRBENCH_DATA": "/data"}).stdout)
    assert found["problems"] == []
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["settings"]["HMRBENCH_DATA"] == "/data"
    assert {"cache", "data root", "runs"} <= set(found["folders"])


def test_env_shows_how_files_are_fetched_but_no_secrets() -> None:
    env = {
        "HTTPS_PROXY": "http://me:secret@proxy:3128",
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_secret",
        "HMRBENCH_OFFLINE": "1",
        "HMRBENCH_CACHE": "/somewhere/cache",
    }
    result = hmrbench("env", "--json", env=env)
    found = json.loads(result.stdout)
    assert found["network"]["offline"] == "yes"
    assert found["network"]["HTTPS_PROXY"] == "http://***@proxy:3128"
    assert found["network"]["HF_HUB_OFFLINE"] == "1"
    assert found["network"]["HF_TOKEN"] == "set, not shown"
    assert found["folders"]["cache"] == "/somewhere/cache"
    assert "secret" not in result.stdout + hmrbench("env", env=env).stdout


def test_env_recognises_torch_and_torchvision_of_different_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    original = importlib.import_module

    def broken(name: str, *args: object) -> object:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return original(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib, "import_module", broken)
    result = hmrbench("env")
    assert result.exit_code == 1
    assert "different builds" in result.stderr
    assert "pip install --force-reinstall torch torchvision" in result.stderr


@pytest.mark.parametrize(
    ("signals", "code", "words"),
    [
        ([signal.SIGINT], 130, "interrupted"),
        ([signal.SIGINT] * 2, 130, "interrupted"),
        ([signal.SIGTERM], 143, "stopped by SIGTERM"),
        ([signal.SIGHUP, signal.SIGTERM], 129, "stopped by SIGHUP"),
    ],
)
@pytest.mark.thorough
def test_a_signal_ends_a_run_that_resume_finishes(
    signals: list[signal.Signals], code: int, words: str, tiny_coco: Path, tiny_cards: Path, tmp_path: Path
) -> None:
    """A real process, a real signal, in the middle of a model."""
    (tiny_cards / "slow.yaml").write_text(
        "family: slow\nmodels:\n  slow: {paper_name: Slow, task: hpe, size: t, input: [64, 48], licence: none, "
        "build: 'slow_net:build'}\n"
    )
    (tmp_path / "slow_net.py").write_text(
        "import time\nfrom tiny_net import TinyPose\n\n"
        "class Slow(TinyPose):\n    def forward(self, x):\n        time.sleep(0.4)\n"
        "        print('forward', flush=True)\n        return super().forward(x)\n\n"
        "def build(card):\n    return Slow()\n"
    )
    command = [
        sys.executable, "-m", "hmrbench", "eval", "slow", "-d", "coco-val", "--data-root", str(tiny_coco),
        "--models-dir", str(tiny_cards), "--runs", str(tmp_path / "r"), "--weights", "random", "--batch-size", "1",
        "--no-flip", "--device", "cpu",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS), *sys.path])}

    def hear() -> None:  # a background job of a shell, as tests in CI may be, is started deaf to some signals
        for number in signals:
            signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=hear,  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(4):
            assert process.stdout.readline() == "forward\n", process.stderr.read()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "--resume continues" in errors
    assert errors.splitlines()[-1] == words
    assert "Traceback" not in errors
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < done.stdout.count("forward") < 9  # nine people, of whom some were kept
    assert len(results.load_runs(tmp_path / "r")) == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("train vmpose-t-s2 -d demo-pose --recipe {}", 2),
        ("eval vmpose-t-s2 -d demo-pose --weights {}", 3),
        ("compare {} {}", 3),
    ],
)
def test_a_name_longer_than_any_files_is_unknown(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "x" * 300
    monkeypatch.chdir(tmp_path)
    result = hmrbench(*command.format(name, name).split())
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert "File name too long" not in result.stderr
