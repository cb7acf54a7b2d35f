"""The HTML report: whole, self-contained, escaped, readable without script, sorted by a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_cli import hmrbench
from test_tables import HMR_3D, Tags, eval_row, gather, profile_row, save

from hmrbench import environment
from hmrbench.errors import DataError
from hmrbench.metrics import phi
from hmrbench.report import page as report
from hmrbench.report.references import load_references
from hmrbench.results import runs as results

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a few models of both tasks, made by the command."""
    folder = tmp_path_factory.mktemp("report")
    save(
        folder / "r",
        *(profile_row(n) for n in ("vitpose-s", "gmfpose-t-s3", "gmfpose-t-s4", "swinhmr2-s-s3", "hmr2-s")),
    )
    save(folder / "r", eval_row("vitpose-s"), *(eval_row(n, d) for n in ("swinhmr2-s-s3", "hmr2-s") for d in HMR_3D))
    output = folder / "report.html"
    result = hmrbench("report", "-o", output, "--runs", folder / "r", "--with-published", "--against", "S4")
    assert result.exit_code == 0, result.output
    return output


def parse(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == []
    return tags


def test_page_is_whole_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    tags = parse(text)
    for tag, attributes in tags.seen:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "srcset", "href", "action"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, attributes)
    assert "default-src 'none'" in text
    outside = re.findall(r"https?://[^\s\"'<]+", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert outside == []
    ids = {a["id"] for _, a in tags.seen if "id" in a}
    assert {a["href"] for t, a in tags.seen if t == "a"} == {f"#{i}" for i in ids}
    assert ids == {"hpe", "hmr", "definitions", "machines", "runs"}


def test_page_says_what_it_must(page: Path) -> None:
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text())
    for definition in phi.DEFINITIONS.values():
        assert definition in text
    for words in (
        "published: reported by others",
        "one multiply-add = 1",
        "speed: batch size 1",
        "Some CPU",
        "python",
    ):
        assert words in text
    rows = parse(text).rows
    measured = next(r for r in rows if r[0] == "vitpose-s")
    assert "75.0" in measured
    assert any(r[0].startswith("METRO-H64 (published [") for r in rows)


def test_pictures_are_svg_for_light_and_dark(page: Path) -> None:
    tags = parse(page.read_text())
    images = [a for t, a in tags.seen if t == "img"]
    dark = [a for t, a in tags.seen if t == "source"]
    assert len(images) == len(dark) == 6
    assert all(a["media"] == "screen and (prefers-color-scheme: dark)" for a in dark)
    for attributes in (*images, *dark):
        kind, _, data = (attributes.get("src") or attributes.get("srcset") or "").partition(";base64,")
        assert kind == "data:image/svg+xml"
        drawing = ElementTree.fromstring(base64.b64decode(data))
        links = [v for e in drawing.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)
    assert all("against" in (a["alt"] or "") for a in images)


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = save(tmp_path, eval_row(evil, weights="random"), profile_row("vitpose-s", device=evil))
    text, _ = report.build(gather(folder), results.load_runs(folder), evil, untrained=True)
    assert evil not in text
    assert "&lt;script&gt;" in text
    assert [t for t, _ in parse(text).seen].count("script") == 1


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    folder = save(tmp_path, eval_row("vitpose-s"))
    text, remarks = report.build(gather(folder), results.load_runs(folder), "x")
    assert remarks[0].startswith("human pose estimation, no plot against macs: 'macs' is in no row")
    assert "<figure>" not in text
    parse(text)


def test_one_model_gets_no_plot(tmp_path: Path) -> None:
    folder = save(tmp_path, eval_row("swinpose-t-s2", "demo-pose"), profile_row("swinpose-t-s2"))
    text, remarks = report.build(gather(folder), results.load_runs(folder), "x")
    assert "<figure>" not in text
    assert "only one model has both numbers" in remarks[0]


def test_points_say_their_row(page: Path) -> None:
    """Each point has a place in its picture, and words; its name is that of a row of the table."""
    tags = parse(page.read_text())
    spots = [a for t, a in tags.seen if t == "div" and a.get("class") == "spot"]
    labels = {a["data-label"] for t, a in tags.seen if t == "tr" and "data-label" in a}
    assert len(spots) > 20
    assert {"ViTPose-S", "SwinHMR2.0-S-S3", "HMR2.0-S"} <= {a["data-model"] for a in spots} & labels
    for spot in spots:
        left, top = re.findall(r"([\d.]+)%", spot["style"] or "")
        assert 0 < float(left) < 100
        assert 0 < float(top) < 100
    assert "ViTPose-S, measured\nAP on coco-val (%): 75.00" in page.read_text()


def test_pictures_of_predict_are_shown(tmp_path: Path) -> None:
    folder = save(tmp_path / "runs", eval_row("vitpose-s"))
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    with pytest.raises(DataError, match="no pictures that"):
        report.build(gather(folder), results.load_runs(folder), "x", pictures=drawn)
    Image.new("RGB", (1600, 800), (10, 200, 30)).save(drawn / "a-net.png")
    record = {"model": "net<b>", "image": "/x/a.jpg", "picture": "../a-net.png", "people": [1, 2]}
    (drawn / "a-net.json").write_text(json.dumps(record))
    text, _ = report.build(gather(folder), results.load_runs(folder), "x", pictures=drawn)
    (image,) = (a for t, a in parse(text).seen if t == "img")
    assert image["alt"] == "net<b> on a.jpg, 2 people"
    shown = Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition("base64,")[2])))
    assert (shown.format, shown.size) == ("JPEG", (720, 360))
    assert np.abs(np.array(shown).mean((0, 1)) - (10, 200, 30)).max() < 3
    (drawn / "a-net.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a-net\.png: not a picture"):
        report.build(gather(folder), results.load_runs(folder), "x", pictures=drawn)


def test_each_machine_is_listed(tmp_path: Path) -> None:
    folder = save(tmp_path, eval_row("vitpose-s"), profile_row("vitpose-s", device="GPU B"))
    text, _ = report.build(gather(folder), results.load_runs(folder), "x")
    assert "2 runs on Some CPU, GPU B" in text
    assert environment.cpu_name() in text


def test_a_browser_shows_it_and_sorts(page: Path, tmp_path: Path) -> None:
    """Tables are complete as written; a browser, where there is one, sorts them by a click on a heading."""
    text = page.read_text()
    order = [r[0] for r in parse(text).rows if r[0].startswith(("vitpose-s", "gmfpose-t")) and "published" not in r[0]]
    assert order[:3] == ["gmfpose-t-s3", "gmfpose-t-s4", "vitpose-s"]
    if BROWSER is None:
        return
    click = '<script>document.querySelector("#hpe th[data-key=params] button").click();</script></body>'
    clicked = tmp_path / "clicked.html"
    for times, expected in (
        (1, ["gmfpose-t-s3", "gmfpose-t-s4", "vitpose-s"]),
        (2, ["vitpose-s", "gmfpose-t-s4", "gmfpose-t-s3"]),
    ):
        clicked.write_text(text.replace("</body>", click[:-7] * times + "</body>"))
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ]
        flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [BROWSER, *flags, "--dump-dom", clicked.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        rows = [r[0] for r in parse(done.stdout).rows if r[0] in expected]
        assert rows[:3] == expected
        assert f'aria-sort="{"ascending" if times == 1 else "descending"}"' in done.stdout


def test_tables_of_the_report_are_those_of_the_command(page: Path) -> None:
    from hmrbench.report import formats

    table = gather(page.parent / "r", references=load_references(), against="S4")
    assert formats.render(table, "html").split("</section>")[0] in page.read_text()
