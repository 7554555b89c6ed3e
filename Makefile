# Everything is set up in .venv of this checkout; nothing else on the machine is touched.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test fuzz faults bench lint types imports format clean

help: ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(VENV)/local ## two minutes of the whole loop: events, features, snapshots, samples, a ranker, crashes
	$(BIN)/tenuto demo

test: $(VENV)/dev ## all tests (Apache Kafka's run where KAFKA_HOME names one)
	$(BIN)/python -m pytest -n 3 --dist loadfile

fuzz: $(VENV)/dev ## INPUTS=1000000 SEED=1: hostile input into every decoder; not in make test
	$(BIN)/python tests/fuzz/fuzz.py --inputs $(or $(INPUTS),1000000) --seed $(or $(SEED),1)

faults: $(VENV)/dev ## SCHEDULES=200 SEED=1 of faults, each judged (ONLY=7 for one, MUTANTS=1, OPTIONS='--json FILE')
	cd tests/faults && $(abspath $(BIN))/python -m fault_suite --schedules $(or $(SCHEDULES),200) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY)) $(if $(MUTANTS),--mutants) $(OPTIONS)

bench: $(VENV)/bench ## every benchmark beside its peers; SHORT=1 for a quick look, NAMES='ingest read' for some
	$(BIN)/python -m benchmarks $(NAMES) $(if $(SHORT),--short)

lint: $(VENV)/dev ## ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/dev ## imports point down only
	$(BIN)/lint-imports

format: $(VENV)/dev ## format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and what runs left behind
	rm -rf $(VENV) .bench .tenuto build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/local: pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) with PyTorch: about 350 MB to download with its CPU build, 1.4 GB on disk."
	$(PIP) install --editable '.[local]'
	@touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) with PyTorch: about 400 MB to download with its CPU build, 1.6 GB on disk."
	$(PIP) install --editable '.[dev]'
	@touch $@

$(VENV)/bench: pyproject.toml | $(VENV)/dev
	$(PIP) install --editable '.[bench]'
	@touch $@
