# make quickstart   set up .venv and run the example        make lint    style and types
# make test         the tests, without the slow ones        make bench   compare with LightGBM on ../shared/data
# make test-slow    the slow ones only                      make clean   remove .venv, .venv-oldest and caches
# make test-oldest  with the oldest versions supported      make wheel   build dist/ and try it in an empty environment
# make docs         the site, in docs/_build; MTTAB_QUICK= for examples at full length
#
# Another interpreter: make test PYTHON=/path/to/python3.12. Options for pytest: make test PYTEST_ARGS="-k rmtgb".

VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
PYTEST_ARGS ?= -n auto # as many processes as there are cores
BENCH_ARGS ?=
MTTAB_QUICK ?= 1

# The first interpreter that runs and is new enough.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: quickstart test test-slow test-oldest lint format bench docs wheel clean

quickstart: $(VENV)/.installed-plot-parquet
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS) || test $$? -eq 5 # 5: none is marked slow

# The same tests with the oldest versions that pyproject.toml allows, in an environment of their own.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# -W: a warning fails. The examples run, too, unless nothing has changed since the last time.
docs: $(VENV)/.installed-docs
	MTTAB_QUICK=$(MTTAB_QUICK) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

# The wheel where nothing else is installed, away from the sources.
wheel: $(VENV)/.installed-dev
	rm -rf dist build/smoke
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m venv build/smoke
	build/smoke/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build/smoke && bin/python -I ../../.ci/smoke.py

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/bench_accuracy.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venv-oldest .numba_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/_build docs/api docs/auto_examples

# One stamp per set of extras: $(VENV)/.installed-plot-parquet says that `mttab[plot,parquet]` is in the venv.
comma := ,

$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[$(subst -,$(comma),$*)]"
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mttab needs Python 3.11 or newer; say which with PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
