# demo and test work on a fresh clone: they make .venv and install what they need.
#   PYTHON       which python3 makes .venv (3.11 or newer)
#   TORCH_INDEX  one more index for pip, such as https://download.pytorch.org/whl/cpu for a torch without CUDA
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SOURCES := src tests benchmarks

.PHONY: demo test check fix bench clean

demo: $(VENV)/.installed
	$(BIN)/seedtok demo --out demo

test: $(VENV)/.installed-test
	env -u OMP_NUM_THREADS $(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/encode.py

clean:
	rm -rf demo build dist .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing seedtok into $(VENV), once"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) -e ".[$*]"
	@touch $@
