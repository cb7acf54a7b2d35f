"""The demo weights ship with the package, say how they were made, and are what demo sets are measured with.

That `eval` reproduces their numbers is held by `hmrbench check --baseline baselines/demo.json`, in `make test`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import prepare_job
from safetensors import safe_open

from hmrbench import data
from hmrbench.cards import load_cards
from hmrbench.cli.demo import MESH, POSE
from hmrbench.fetch import sources
from hmrbench.files import file_sha256
from hmrbench.schema import ModelCard
from hmrbench.schema.reading import read_yaml, share_dir
from hmrbench.training.recipes import recipe_dir

CARDS = [card for card in load_cards().values() if card.demo_weights is not None]
LARGEST = 12e6


def test_the_networks_of_the_demo_have_them() -> None:
    assert {card.name for card in CARDS} == {*POSE, *MESH, "swinhmr2-t-s2"}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_they_are_small_whole_and_say_how_they_were_made(card: ModelCard) -> None:
    label, path = sources.resolve_weights(card, "demo")
    assert label == "demo"
    assert path is not None
    assert path.stat().st_size <= LARGEST
    source = card.demo_weights
    assert source is not None
    assert file_sha256(path) == source.sha256
    with safe_open(path, "pt") as file:
        made = file.metadata()
        weights = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118
    assert {w.get_dtype() for w in weights if len(w.get_shape()) > 1} == {"F16"}
    assert made["model"] == card.name
    tested = data.load_spec({"hpe": "demo-pose", "hmr": "demo-mesh"}[card.task])
    assert made["dataset"] == f"{tested.name}-train"
    assert made["annotations_sha256"] != file_sha256(data.find_folder(tested, None) / tested.annotations)
    assert len(made["commit"]) == 40  # and not -dirty
    first = read_yaml(recipe_dir() / f"{made['recipe']}.yaml").get("extends")
    recipes = f"recipes {first} and {made['recipe']}" if first else f"recipe {made['recipe']}"
    for fact in (f"commit {made['commit'][:7]}", recipes, "hours"):
        assert fact in source.read_in
    assert "know nothing of real photographs" in source.note


@pytest.mark.parametrize("path", sorted((share_dir() / "models").rglob("*.safetensors")), ids=lambda path: path.name)
def test_no_shipped_file_names_a_place_on_the_machine_that_made_it(path: Path) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["settings"])["init"]
    for key, value in metadata.items():  # a path begins a value, or follows a space, a quote or a bracket
        assert not re.search(r"""(^|[\s"'(=:])(~?/|[A-Za-z]:[\\/])""", value), f"{key}: {value}"


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_demo_sets_take_them_unless_others_are_named(card: ModelCard) -> None:
    dataset = "demo-pose" if card.task == "hpe" else "demo-mesh"
    assert prepare_job(card, dataset, limit=1).weights == "demo"
    assert prepare_job(card, dataset, limit=1, weights="random").weights == "random"
