# Every target sets up what it needs: an environment in .venv, made once.
VENV := .venv
PYTHON := $(VENV)/bin/python
BOOTSTRAP ?= python3

.PHONY: setup demo test lint bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(BOOTSTRAP) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[test]"
	touch $@

demo: setup
	$(PYTHON) examples/plot_01_ear_eeg.py

test: setup lint
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: setup
	OMP_NUM_THREADS=1 $(PYTHON) benchmarks/speed.py --output benchmarks/results

clean:
	rm -rf $(VENV) demo_output .pytest_cache .ruff_cache
