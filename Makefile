# Everything a newcomer needs is Python 3.10 or newer and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo docs test test-thorough test-slow test-oldest commands-oldest check bench gpu runtimes format clean

setup: $(VENV)/installed  ## make the environment, once

$(VENV)/installed: pyproject.toml synth/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]' --editable synth
	@touch $@

demo: setup  ## the main job, on pictures made on the spot
	$(BIN)/python -m hmrbench demo

docs: setup  ## the pages, into build/docs; nothing is loaded from a network
	$(BIN)/mkdocs build --strict

test: setup  ## the gate on the demo's accuracies, then the tests that are done in ten minutes
	rm -rf build/gate
	$(BIN)/python -m hmrbench eval swinpose-t-s2 gmfpose-t-s2 vmpose-t-s2 -d demo-pose --runs build/gate
	$(BIN)/python -m hmrbench eval vmhmr2-t-s2 -d demo-mesh --runs build/gate
	$(BIN)/python -m hmrbench check --baseline baselines/demo.json --runs build/gate
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not thorough'

test-thorough: setup  ## the gate on all networks' costs, then the tests that go through all networks, files or pages
	$(BIN)/python -m hmrbench check --baseline baselines/costs.json --costs
	$(BIN)/python -m pytest -n 2 -m 'thorough and not slow'

test-slow: setup  ## the tests of more than ten seconds each: every network through every command, trainings to the end
	$(BIN)/python -m pytest -n 2 -m slow

# Every dependency at its lower bound in an environment of its own.
OLDEST := $(VENV)-oldest
OLD := $(OLDEST)/bin/python

$(OLDEST)/installed: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLD) -m pip install --quiet --constraint tests/oldest.txt --editable '.[dev,gdrive]' --editable synth
	@touch $@

test-oldest: $(OLDEST)/installed  ## all tests with every dependency at its lower bound
	$(OLD) -m pytest -n 2 --dist loadfile

commands-oldest: $(OLDEST)/installed  ## the commands, and tests of counts, codecs, metrics and tables, the same way
	rm -rf build/oldest
	$(OLD) -m hmrbench models
	$(OLD) -m hmrbench eval swinpose-t-s2 -d demo-pose --limit 8 --runs build/oldest
	$(OLD) -m hmrbench eval swinhmr2-t-s2 -d demo-mesh --limit 8 --runs build/oldest
	$(OLD) -m hmrbench profile gmfpose-t-s2 --repeats 2 --device cpu --runs build/oldest
	$(OLD) -m hmrbench table --runs build/oldest
	$(OLD) -m pytest $(addprefix tests/test_,$(addsuffix .py,bounds flops codecs mpjpe pck coco_keypoints tables))

check: setup  ## format, lint, types
	$(BIN)/ruff format --check hmrbench synth tests docs/*.py
	$(BIN)/ruff check hmrbench synth tests docs/*.py
	$(BIN)/mypy

bench: setup  ## speed, as ratios taken in one run
	$(BIN)/python tests/bench.py

gpu: setup  ## what a GPU must show, in at most 8 minutes: build/gpu/gpu.json and gpu.md
	$(BIN)/python tests/gpu.py -o build/gpu

runtimes: setup  ## every network on other runtimes, into docs/runtimes.md; hours, and goes on where it was stopped
	$(BIN)/python docs/runtimes_table.py

format: setup
	$(BIN)/ruff format hmrbench synth tests docs/*.py
	$(BIN)/ruff check --fix hmrbench synth tests docs/*.py

clean:
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .mypy_cache .ruff_cache
