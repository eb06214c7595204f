# Every target sets up what it needs: an environment in .venv, made once.
VENV := .venv
PYTHON := $(VENV)/bin/python
BOOTSTRAP ?= python3
# Two processes share two cores, and begin with half of the tests each, so that what a file
# needs is made once. LightGBM, of YASA, heeds the limit alone.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1

.PHONY: setup demo test lint docs bench fuzz wheel oldest newest clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(BOOTSTRAP) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[test]"
	touch $@

demo: setup
	$(PYTHON) examples/demo_ear_eeg.py

test: setup lint
	$(ONE_THREAD) $(PYTHON) -m pytest -n 2 --dist worksteal

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

# The wheel in an environment that has nothing else.
wheel:
	rm -rf dist $(VENV)-wheel
	$(BOOTSTRAP) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(VENV)-wheel/bin/python -m pip install --quiet dist/*.whl
	cd dist && ../$(VENV)-wheel/bin/python -I ../tests/installed.py

# The tests with the lowest versions that pyproject.toml admits, and with the highest.
# torchaudio does not name the torch that it was built with, so it is named here.
oldest: RESOLUTION := --resolution lowest-direct "torchaudio<2.7"
oldest newest:
	rm -rf $(VENV)-$@
	$(BOOTSTRAP) -m venv $(VENV)-$@
	$(VENV)-$@/bin/python -m pip install --quiet uv
	$(VENV)-$@/bin/uv pip install --quiet --python $(VENV)-$@/bin/python $(RESOLUTION) --editable ".[test]"
	$(ONE_THREAD) $(VENV)-$@/bin/python -m pytest -n 2 --dist worksteal

clean:
	rm -rf $(VENV) $(VENV)-* dist demo_output docs/_build docs/auto_examples docs/api/generated docs/project .pytest_cache .ruff_cache
