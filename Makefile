# Evergreen. Every target that needs .venv creates it first, and again when the dependencies change.
SHELL := /bin/bash
PYTHON ?= $(shell bash scripts/python.sh)
DATASET ?= synthetic
LOGS ?=
ONLY ?=
FRESH ?=
MODEL ?=
BUDGET ?=
PARALLEL ?=
DAYS ?=
SPEED ?=
SLICES ?=
TRIALS ?= 20
SEED ?= $(shell date +%j)
PORT ?=
REBUILD ?=
STREAM ?=
TO ?=
FORWARD ?=
PROCESSES ?=

export EVERGREEN_HOME ?= $(CURDIR)/.evergreen
export DAGSTER_HOME ?= $(CURDIR)
export EVERGREEN_DAGSTER := $(EVERGREEN_HOME)/dagster
# By default, idle OpenMP threads spin, which makes two processes on two cores several times slower.
export OMP_WAIT_POLICY ?= PASSIVE

RUN := .venv/bin/python
READY := .venv/.ready

.PHONY: help need demo tune online join store serve rollback loop sigopt test test-fast soak ui bench docs check clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

need:
	@bash scripts/need.sh "$(PYTHON)"

demo: $(READY) ## Run the daily job and print its metrics (DATASET=criteo LOGS=<folder> for real logs, FRESH=1 to run all days again)
	@$(RUN) -m orchestration.demo $(DATASET) $(if $(LOGS),--logs "$(LOGS)") $(if $(FRESH),--fresh)

tune: $(READY) ## Tune a recipe on the demo's days and train the last day with it (DATASET=, LOGS=, MODEL=, BUDGET=, PARALLEL=)
	@$(RUN) -m orchestration.tune $(DATASET) $(if $(LOGS),--logs "$(LOGS)") $(if $(MODEL),--model $(MODEL)) \
		$(if $(BUDGET),--budget $(BUDGET)) $(if $(PARALLEL),--parallel $(PARALLEL))

online: $(READY) ## Train a model online on the days after the demo, and publish what it learns (DATASET=, LOGS=, MODEL=, DAYS=, SPEED=, SLICES=)
	@$(RUN) -m orchestration.online $(DATASET) $(if $(LOGS),--logs "$(LOGS)") $(if $(MODEL),--model $(MODEL)) \
		$(if $(DAYS),--days $(DAYS)) $(if $(SPEED),--speed $(SPEED)) $(if $(SLICES),--slices $(SLICES))

store: $(READY) ## Keep the online store of feature tables current from the stream folder (DATASET=, REBUILD=1 to start from its beginning, STREAM=impressions)
	@$(RUN) -m orchestration.feature_store $(DATASET) $(if $(REBUILD),--rebuild) $(if $(STREAM),--stream $(STREAM))

# PROCESSES in the environment is the default of `make test`, and starts no workers here.
serve: $(READY) ## Serve recommendations over HTTP, on http://127.0.0.1:8715 (DATASET=, MODEL=, PORT=, PROCESSES=2 for one on each of two cores)
	@$(RUN) -m orchestration.serve $(DATASET) $(if $(MODEL),--model $(MODEL)) $(if $(PORT),--port $(PORT)) \
		$(if $(and $(filter command,$(origin PROCESSES)),$(PROCESSES)),--processes $(PROCESSES))

rollback: $(READY) ## Serve an earlier version of a model until FORWARD=1 (DATASET=, MODEL=, TO=<day>)
	@$(RUN) -m orchestration.rollback $(DATASET) $(if $(MODEL),--model $(MODEL)) $(if $(TO),--to $(TO)) $(if $(FORWARD),--forward)

join: $(READY) ## Join arriving impressions and actions into the stream that `make online` follows (DATASET=)
	@$(RUN) -m orchestration.join $(DATASET)

loop: $(READY) ## Run a closed loop on simulated users whose tastes change, and report quality (DAYS=7 to compare daily and online by day)
	@$(RUN) -m orchestration.loop $(if $(DAYS),--days $(DAYS))

sigopt: $(READY) ## Serve the tuning service, which speaks SigOpt's API, on http://127.0.0.1:8714
	@$(RUN) -m ml.tuning.server $(if $(PORT),--port $(PORT))

test: $(READY) ## Run all tests, on every core (PROCESSES=)
	@$(RUN) -m pytest -n $(or $(PROCESSES),auto) --dist loadfile

test-fast: $(READY) ## Run the tests that take at most a few seconds each (PROCESSES=)
	@$(RUN) -m pytest -n $(or $(PROCESSES),auto) --dist loadfile -m "not slow"

soak: $(READY) ## Run long trials: kills, replays, generated attacks (TRIALS=20 times as many as `make test`, seeds from SEED=n on)
	@EVERGREEN_TRIALS=$(TRIALS) EVERGREEN_SEED=$(SEED) $(RUN) -m pytest -m soak --timeout=0 -v


ui: $(READY) ## Open the Dagster UI on http://127.0.0.1:3000
	@mkdir -p "$(EVERGREEN_DAGSTER)"
	@.venv/bin/dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

bench: $(READY) ## Measure every speed claim as a ratio (ONLY="training request" for some; LOGS=<folder> with Criteo's log)
	@$(if $(LOGS),EVERGREEN_REAL_LOGS="$(LOGS)") $(RUN) -m benchmarks $(ONLY)

docs: $(READY) ## Build the documentation site into site/, without network access; a broken link fails the build
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --clean

check: $(READY) ## Run the linter, the formatter and the type checker
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright

clean: ## Delete what Evergreen wrote, including the simulated log; keep .venv and the other logs in the landing folder
	@rm -rf "$(EVERGREEN_HOME)/landing/synthetic"
	@if [ -d "$(EVERGREEN_HOME)" ]; then find "$(EVERGREEN_HOME)" -mindepth 1 -maxdepth 1 ! -name landing -exec rm -rf {} +; fi

$(READY): requirements.lock pyproject.toml | need
	@if [ -L .venv ]; then echo ".venv is a link, and other folders may use its target: remove it, or install there" >&2; exit 1; fi
	@$(PYTHON) -m venv --clear .venv
	@bash scripts/install.sh
	@touch $@
