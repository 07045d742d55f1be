# `make demo`, `make test` and `make test-fast` need no setup: they make .venv and install into it.

PYTHON ?= python3
VENV := .venv
# One more than two cores: some tests wait for processes.
WORKERS ?= 3
# Without bytecode files, each of hundreds of processes compiles the package again.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast lint setup clean

demo: $(STAMP)
	$(BIN)/flash-moe demo

test: lint
	sh scripts/test_tools.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_FLAGS)

# Tests that start no process and compile no kernel; tests/support/tiers.py finds them.
test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not process and not kernel and not slow" $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/prose_lint.py

setup: $(STAMP)

$(STAMP): pyproject.toml scripts/setup.sh
	PYTHON="$(PYTHON)" sh scripts/setup.sh $(VENV)
	touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
