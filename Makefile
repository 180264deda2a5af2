# Everything a fresh machine needs is python3 (3.11 or newer, with venv), make and git; each target sets itself up.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup native drill test test-browser check format bench clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /' | sort

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ridethrough needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv; on Debian: apt-get install python3-venv"; exit 2; }
	@echo "setting up .venv (once; a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,data]'
	@$(BIN)/python -c 'import node.ranking; node.ranking.warm()'
	@$(BIN)/python -m sim.native build --if-possible
	@touch $@

setup: $(READY) ## make the virtual environment

native: $(READY) ## compile the simulator's hot modules (again, after an edit); partition.py takes them by itself
	$(BIN)/python -m sim.native build

PROTOCOL ?= raft

drill: $(READY) ## the main job: cut the power of each domain in turn while a model learns, then check everything (PROTOCOL=bft)
	$(BIN)/python scripts/drill.py run --protocol $(PROTOCOL)

test: $(READY) check ## lint, types, import rules, and all tests but the browser's
	$(BIN)/pytest -m "not browser"

test-browser: $(READY) ## look at a report in Chromium (Debian's package chromium)
	$(BIN)/pytest -m browser tests/browser

check: $(READY) ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## put the sources in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## the benchmarks: apply on one core, a cluster of three, checking a million operations
	$(BIN)/python scripts/bench.py apply
	$(BIN)/python scripts/bench.py cluster
	$(BIN)/python scripts/bench.py check

clean: ## remove what set-up and runs have left
	rm -rf .venv .cache runs clusters
