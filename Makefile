# demo and test work on a fresh clone: they make .venv and install what they need, in the versions of requirements.lock.
#   PYTHON       which python3 makes .venv (3.11 or newer)
#   WORKERS      how many processes run the tests; by default one a core, up to 8
#   SLOW_MINUTES of the tests: slow ones that would begin later than that are skipped, and counted; by default none is
#   TORCH_INDEX  one more index for pip, such as https://download.pytorch.org/whl/cpu for a torch without CUDA
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
INSTALL := -m pip install -qq --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP := PIP_CONSTRAINT=$(LOCK) $(BIN)/python $(INSTALL)
WORKERS ?= logical
SLOW_MINUTES ?=
PYTEST := -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
	$(if $(SLOW_MINUTES),--slow-minutes $(SLOW_MINUTES) -rs)
SOURCES := src tests benchmarks tools

.PHONY: demo smoke docs test test-fast test-latest test-oldest check fix lock bench release clean

demo: $(VENV)/.installed
	$(BIN)/seedtok demo --out demo --overwrite

# every part of the mini size from nothing and every table, with a few steps of each
smoke: $(VENV)/.installed-test
	rm -rf smoke
	$(BIN)/seedtok reproduce mini --out smoke --smoke

# the documentation as a site, in site/
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: $(VENV)/.installed-test
	SEEDTOK_LOCK=$(LOCK) $(BIN)/python $(PYTEST)

# without the tests marked slow
test-fast: $(VENV)/.installed-test
	SEEDTOK_LOCK=$(LOCK) $(BIN)/python $(PYTEST) -m "not slow"

# the suite with the newest release of everything, whatever the lock says
test-latest:
	$(PYTHON) -m venv --clear .venv-latest
	.venv-latest/bin/python $(INSTALL) -e ".[test]"
	.venv-latest/bin/python $(PYTEST)

# the suite with the oldest releases that pyproject.toml allows; torch stays the locked one
test-oldest: $(VENV)/.installed-dev
	$(PYTHON) -m venv --clear .venv-oldest
	$(BIN)/uv pip compile -q pyproject.toml --extra test --resolution lowest-direct -c constraints.txt -o .venv-oldest/oldest.txt
	PIP_CONSTRAINT=.venv-oldest/oldest.txt .venv-oldest/bin/python $(INSTALL) -e ".[test]"
	.venv-oldest/bin/python $(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# renews the lock: the newest releases within pyproject.toml's ranges, torch as in constraints.txt
LOCKED := all bench dev docs quantize ray test
lock: $(VENV)/.installed-dev
	echo hatchling | $(BIN)/uv pip compile -q pyproject.toml - $(addprefix --extra ,$(LOCKED)) --universal --upgrade \
		--python-version 3.11 -c constraints.txt --no-annotate --no-header -o $(LOCK)

# speeds beside those of other ways to compute the same, as one table and in bench.json; 10 GiB of memory
bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/table.py --json bench.json

# wheel and sdist in dist/, checked, and the wheel's commands in an environment without extras
release: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	! find dist -type f -size +104857600c | grep .  # more than a package index takes
	$(PYTHON) -m venv --clear .venv-bare
	PIP_CONSTRAINT=$(LOCK) .venv-bare/bin/python $(INSTALL) dist/*.whl
	.venv-bare/bin/python tools/check_release.py
	ls -l dist

clean:
	rm -rf bench.json demo smoke site build dist .pytest_cache .ruff_cache .hypothesis .venv-bare .venv-latest .venv-oldest
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml $(LOCK) | $(BIN)/python
	@echo "installing seedtok into $(VENV), once"
	$(PIP) -e ".[all]"
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) -e ".[$*]"
	@touch $@
