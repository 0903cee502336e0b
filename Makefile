# Each target carries a one-line description, which `make help` prints.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto
OUT ?= quickstart
SLURM_HOME ?= /tmp/scalekit-slurm
SLURM_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-slurm slurm-up slurm-down lint format types check \
        golden build clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp is remade when what is installed changes; the package itself is editable.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed  ## make .venv and install the project with its test tools

quickstart: install  ## train a small sweep on this machine and fit its law (under 12 minutes)
	$(BIN)/scalekit sweep sweeps/quickstart.yaml --out $(OUT) --wait --yes
	$(BIN)/scalekit analyze $(OUT) -o $(OUT)/report
	@echo "the report: $(OUT)/report/report.html"

test: install  ## run every test but the slow campaigns
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-slow: install  ## run the slow campaigns (CI runs them too)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m slow

test-slurm: install  ## run the tests on a real Slurm, which must be installed (see tests/slurm)
	SCALEKIT_REQUIRE_SLURM=1 $(BIN)/python -m pytest -n 0 -m "slurm and not slow" tests/slurm

slurm-up:  ## start a private Slurm on this machine (SLURM_OPTIONS=--accounting for sacct)
	$(PYTHON) tests/slurm/cluster.py up --home $(SLURM_HOME) $(SLURM_OPTIONS)

slurm-down:  ## stop it
	$(PYTHON) tests/slurm/cluster.py down --home $(SLURM_HOME)

format: install  ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet .

lint: install  ## check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install  ## check types
	$(BIN)/pyright

check: lint types  ## format, lint and types; `make test` runs the tests

golden: install  ## rewrite the golden transcripts; read the diff before committing it
	SCALEKIT_GOLDEN=write $(BIN)/python -m pytest -q tests/golden

build: install  ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean:  ## remove what the other targets made
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
