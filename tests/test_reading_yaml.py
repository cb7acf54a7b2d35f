"""What YAML may say: bounds, messages with file, entry and nearest key, and no traceback whatever a file holds."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import yaml

from hmrbench import data, zoo
from hmrbench.cards import _read_cards, find_cards, load_card, load_cards
from hmrbench.errors import UsageError
from hmrbench.fetch import schemes
from hmrbench.schema.reading import MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_yaml, share_dir
from hmrbench.zoo import parts

CARD = "paper_name: X, task: hpe, size: t, encoder: vmamba-t, stages: 2, input: [64, 48], licence: MIT"


def bomb(levels: int) -> str:
    """Ten times ten times ... values behind aliases, in a few hundred bytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not readable as YAML: while parsing a flow node did not find expected node content in line 2"),
        (bomb(10), f"more than {MAX_VALUES:,} values"),
        ("a: &a [*a]", "'a' holds itself"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nests deeper than {MAX_DEPTH}"),
        ("a: " + "x" * MAX_BYTES, "more than 1,048,576 bytes"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands here twice in line 3, column 1"),
        ("a: {b: 1, b: 2}", "the key 'b' stands here twice"),
        ("a: !!python/object/apply:os.system [true]", "python/object/apply:os.system is not allowed"),
        ("a: !!binary aGk=", "binary is not allowed"),
        ("a: !!int x", "not what its tag says"),
        ("a: !!bool x", "not what its tag says"),
        ("a: " + "9" * 5000, "more than 100 digits"),
        ("1: a", "a key must be text"),
        ("true: a", "a key must be text"),
        ("[a]: b", "a key must be text"),
        ("a: *b", "undefined alias"),
        ("a: \x07", "not readable as YAML"),
        ("- a", "must map names"),
        ("a: 1\n---\nb: 2\n", "single document"),
    ],
)
def test_what_yaml_may_not_be(text: str, message: str, tmp_path: Path) -> None:
    assert message in refused(text, tmp_path)


def test_brackets_that_are_never_closed(tmp_path: Path) -> None:
    """Newer parsers have a limit of their own, and reach it before they hand over the first bracket."""
    said = refused("a: " + "[" * 100_000, tmp_path)
    assert "maximum nesting depth" in said or f"nests deeper than {MAX_DEPTH}" in said


def refused(text: str, folder: Path) -> str:
    """What reading a file of this text ends with."""
    file = folder / "some.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_what_yaml_may_be(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_bytes("\ufeffa: &x {b: é, c: 2024-01-31}\nd: {<<: *x, b: 1.5}\n".encode())
    assert read_yaml(file) == {"a": {"b": "é", "c": "2024-01-31"}, "d": {"b": 1.5, "c": "2024-01-31"}}
    file.write_text("# nothing yet\n")
    assert read_yaml(file) == {}


@pytest.mark.parametrize("kind", ["folder", "fifo", "binary", "latin-1", "missing"])
def test_what_is_no_text_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_bytes(b"\x80\x02}q\x00." if kind == "binary" else "a: ä".encode("latin-1"))
    with pytest.raises(UsageError, match=r"some\.yaml: (no such file|not readable as YAML)"):
        read_yaml(path)


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "family: x\ndefualts: {}\ndefaults: {license: MIT}\nmodels:\n"
        "  one: {paper_name: X, task: hpo, size: t, encoder: vmamba-t, input: [256, 192]}\n"
        "  two: {paper_name: Y, task: hpe, size: t, input: [0, 2], head: {knd: 3},\n"
        "    weights: [{url: 'manual:', sha: x}]}\n"
        "  three: 3\n"
    )
    with pytest.raises(UsageError) as caught:
        load_cards([tmp_path])
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'c.yaml'}: 7 faults\n")
    for words in (
        "unknown key defualts; did you mean 'defaults'?",
        "'one', 'two' is not right at license: unknown key license; did you mean 'licence'?",
        "'one' is not right at task: Input should be 'hpe' or 'hmr'",
        "'two' is not right at input.0: Input should be greater than or equal to 1",
        "'two' is not right at head.knd: unknown key knd; did you mean 'kind'?",
        "'two' is not right at weights.0.sha: unknown key sha; did you mean 'sha256'?",
        "'three' must map its fields to what they are, not be a number",
    ):
        assert words in text


def test_faults_of_a_data_set_name_the_nearest_key(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(
        "mine: {task: hpe, title: x, reader: coco, folder: x, annotation: a.json, annotations: a.json, images: i,\n"
        "  metrics: [coco-keypoints], licence: x, parts: {images: {archive: [x]}}}\n"
    )
    with pytest.raises(UsageError) as caught:
        data.load_specs(tmp_path / "d.yaml")
    assert "d.yaml: 2 faults" in str(caught.value)
    assert "unknown key annotation; did you mean 'annotations'?" in str(caught.value)
    assert "parts.images.archive: unknown key archive; did you mean 'archives'?" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{drop_pth: 0.1}", "unknown key drop_pth; did you mean 'drop_path'?"),
        ("{drop_path: often}", "options of vmamba-t (drop_path: 'often') are not right"),
    ],
)
def test_options_that_an_encoder_does_not_have(options: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"family: x\nmodels: {{Mine: {{{CARD}, options: {options}}}}}\n")
    with pytest.raises(UsageError) as caught:
        zoo.build_net(load_card("mine", [tmp_path]))
    assert str(caught.value).startswith(f"{file}: 'Mine': ")
    assert message in str(caught.value)


def test_names_with_capitals_are_found(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"family: x\nmodels: {{MyNet: {{{CARD}}}, 'net[b]': {{{CARD}}}}}\n")
    cards = load_cards([tmp_path])
    for name in ("MyNet", "mynet", "MYNET", "myn*", "MyN*"):
        assert [c.name for c in find_cards([name], cards)] == ["MyNet"]
    assert [c.name for c in find_cards(["net[b]"], cards)] == ["net[b]"]
    with pytest.raises(UsageError, match=r"did you mean MyNet.*--models-dir"):
        find_cards(["mynit"], cards)
    (tmp_path / "d.yaml").write_text(f"family: x\nmodels: {{MYNET: {{{CARD}}}}}\n")
    with pytest.raises(UsageError, match="already a model named 'MyNet'"):
        load_cards([tmp_path])


def test_data_sets_with_capitals_are_found(tmp_path: Path) -> None:
    spec = (share_dir() / "datasets.yaml").read_text(encoding="utf-8").replace("\ncoco-val:", "\nMySet:")
    (tmp_path / "d.yaml").write_text(spec, encoding="utf-8")
    assert data.load_spec("myset", tmp_path / "d.yaml").name == "MySet"
    assert data.load_spec("MySet", tmp_path / "d.yaml").name == "MySet"
    with pytest.raises(UsageError, match=r"did you mean .*MySet.*--datasets-file"):
        data.load_spec("MySat", tmp_path / "d.yaml")
    (tmp_path / "e.yaml").write_text(spec.replace("\nMySet:", "\nCOCO-Val:"), encoding="utf-8")
    assert data.load_spec("coco-val", tmp_path / "e.yaml").name == "COCO-Val"


TOKENS = [*"[]{}\"'\t\n#|>~", ": ", "- ", "? ", "&a ", "*a", "<<: *a", "!!int ", "!!set ", "2001-13-45", ".nan", "0x",
          "\x07", "\ufeff", "---\n", "%YAML 9\n", "null", "true", "[" * 80, "9" * 5000]  # fmt: skip
JUNK = [None, True, -1, 0, 2**63, float("nan"), "", "x", "[/bold]", "\x1b[31m", [], {}, [1], {"a": 1}, "~nobody/x",
        "https://[bad/x", "https://host:x/y"]  # fmt: skip


def cut_up(text: str, rng: random.Random) -> str:
    """The text with tokens put in, letters changed and pieces taken out."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        put = rng.choice([rng.choice(TOKENS), chr(rng.randrange(256)), ""])
        text = text[:at] + put + text[at + rng.choice([0, 1, 20]) :]
    return text


def changed(text: str, rng: random.Random) -> str:
    """The same file with a value replaced, taken out or under another key."""
    content = yaml.safe_load(text)
    places: list[tuple[object, object]] = []
    waiting = [content]
    for value in waiting:
        inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        places += [(value, key) for key, _ in inner]
        waiting += [v for _, v in inner if isinstance(v, (dict, list))]
    holder, key = rng.choice(places)
    old = holder.pop(key)  # type: ignore[attr-defined]
    if isinstance(holder, dict) and rng.random() < 0.8:
        holder[rng.choice([key, f"{key}x", 1])] = rng.choice([*JUNK, old])
    return yaml.safe_dump(content, allow_unicode=True)


def look_at(kind: str, folder: Path) -> None:
    """Read the file as commands do, and build what it describes."""
    if kind == "specs":
        data.load_specs(folder / "c.yaml")
        return
    _read_cards.cache_clear()
    card = next((c for n, c in load_cards([folder]).items() if n.startswith("my")), None)
    if card is not None:
        parts.count_parameters(card)
        for source in (*card.weights, *card.encoder_weights):
            schemes.file_name(source)


@pytest.mark.parametrize("kind", ["vmpose", "swinhmr2", "specs"])
def test_a_file_that_was_changed_anywhere_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    """Any other exception fails here; `python tests/test_reading_yaml.py N` tries N more of each."""
    assert mutate(kind, tmp_path, range(60)) > 20


def mutate(kind: str, folder: Path, seeds: range) -> int:
    """How many of the changed files were refused."""
    source = "datasets.yaml" if kind == "specs" else f"models/{kind}.yaml"
    text = (share_dir() / source).read_text(encoding="utf-8").replace(kind, f"my{kind}")
    refused = 0
    for seed in seeds:
        rng = random.Random(seed)
        (folder / "c.yaml").write_text((cut_up if seed % 2 else changed)(text, rng), encoding="utf-8")
        try:
            look_at(kind, folder)
        except UsageError:
            refused += 1
    return refused


if __name__ == "__main__":
    import tempfile

    for each in ("vmpose", "swinhmr2", "specs"):
        print(each, mutate(each, Path(tempfile.mkdtemp()), range(int(sys.argv[1]))))
