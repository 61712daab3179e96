# Evergreen. `make demo` and `make test` set up everything themselves, and so does every other target.
SHELL := /bin/bash
PYTHON ?= python3.11
DATASET ?= synthetic
LOGS ?=
ONLY ?=
TRIALS ?= 20
SEED ?= $(shell date +%j)
PROCESSES ?= auto

export EVERGREEN_HOME ?= $(CURDIR)/.evergreen
export DAGSTER_HOME ?= $(CURDIR)
export EVERGREEN_DAGSTER := $(EVERGREEN_HOME)/dagster
# Spinning OpenMP threads make two processes on two cores crawl.
export OMP_WAIT_POLICY ?= PASSIVE

RUN := .venv/bin/python
READY := .venv/.ready
PIP := $(RUN) -m pip install --quiet --quiet --disable-pip-version-check

.PHONY: help need demo test test-fast soak ui bench docs check clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

need:
	@bash scripts/need.sh $(PYTHON)

demo: $(READY) ## Run the main job and print its figures (DATASET=criteo LOGS=<folder> for real logs)
	@$(RUN) -m orchestration.demo $(DATASET) $(if $(LOGS),--logs "$(LOGS)")

test: $(READY) ## Pass the tests, on every core
	@$(RUN) -m pytest -n $(PROCESSES) --dist loadfile

test-fast: $(READY) ## The tests that take no more than a few seconds each, for a developer's loop
	@$(RUN) -m pytest -n $(PROCESSES) --dist loadfile -m "not slow"

soak: $(READY) ## Long trials: kills, replays, generated attacks (TRIALS=20 times what `make test` runs, from SEED=n on)
	@EVERGREEN_TRIALS=$(TRIALS) EVERGREEN_SEED=$(SEED) $(RUN) -m pytest -m soak --timeout=0 -v


ui: $(READY) ## Open the Dagster UI on http://127.0.0.1:3000
	@mkdir -p "$(EVERGREEN_DAGSTER)"
	@.venv/bin/dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

bench: $(READY) ## Measure every speed claim, as ratios (ONLY="training request" for some; LOGS=<folder> with Criteo's log)
	@$(if $(LOGS),EVERGREEN_REAL_LOGS="$(LOGS)") $(RUN) -m benchmarks $(ONLY)

docs: $(READY) ## Build the documentation site into site/, without network; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --clean

check: $(READY) ## Linter, formatter, type checker
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright

clean: ## Remove what Evergreen wrote; the environment and the landing folder, but for the simulated log, stay
	@rm -rf "$(EVERGREEN_HOME)/landing/synthetic"
	@if [ -d "$(EVERGREEN_HOME)" ]; then find "$(EVERGREEN_HOME)" -mindepth 1 -maxdepth 1 ! -name landing -exec rm -rf {} +; fi

# torch first and with its own dependencies (the CUDA build needs its nvidia packages); then the pins, unresolved, so
# that nothing pulls the CUDA build of FBGEMM in.
$(READY): requirements.lock pyproject.toml | need
	@echo "Setting up .venv, once; this takes a few minutes ..."
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) torch==2.13.0
	@$(PIP) --no-deps -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
