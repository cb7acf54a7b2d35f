# Everything a newcomer needs is Python 3.10 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check bench format clean

setup: $(VENV)/installed  ## make the environment, once

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup  ## the main job, on pictures made on the spot
	$(BIN)/python -m hmrbench demo

test: setup  ## the gates on this project's own costs and demo accuracies, then all tests
	$(BIN)/python -m hmrbench check --baseline baselines/costs.json --costs
	rm -rf build/gate
	$(BIN)/python -m hmrbench eval swinpose-t-s2 gmfpose-t-s2 vmpose-t-s2 -d demo-pose --runs build/gate
	$(BIN)/python -m hmrbench eval vmhmr2-t-s2 -d demo-mesh --runs build/gate
	$(BIN)/python -m hmrbench check --baseline baselines/demo.json --runs build/gate
	$(BIN)/python -m pytest

check: setup  ## format, lint, types
	$(BIN)/ruff format --check hmrbench tests
	$(BIN)/ruff check hmrbench tests
	$(BIN)/mypy

bench: setup  ## speed, as ratios taken in one run
	$(BIN)/python tests/bench.py

format: setup
	$(BIN)/ruff format hmrbench tests
	$(BIN)/ruff check --fix hmrbench tests

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
