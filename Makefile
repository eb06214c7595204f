# Every target sets up what it needs: an environment in .venv, made once.
VENV := .venv
PYTHON := $(VENV)/bin/python
BOOTSTRAP ?= python3

.PHONY: setup demo test lint docs bench fuzz clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(BOOTSTRAP) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[test]"
	touch $@

demo: setup
	$(PYTHON) examples/demo_ear_eeg.py

test: setup lint
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.ready-docs: $(VENV)/.ready
	$(PYTHON) -m pip install --quiet --editable ".[docs]"
	touch $@

docs: $(VENV)/.ready-docs
	OMP_NUM_THREADS=1 $(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

bench: setup
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/speed.py --output benchmarks/results

fuzz: setup
	OMP_NUM_THREADS=1 $(PYTHON) -m tests.fuzz

clean:
	rm -rf $(VENV) demo_output docs/_build docs/auto_examples docs/api/generated .pytest_cache .ruff_cache
