# Every target sets up what it needs. `make help` lists them.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh
PYTHON := .venv/bin/python
ARGS ?=
SECONDS ?= 600

.PHONY: help setup serve test test-core test-stores test-transports test-browser test-faults test-slow test-matrix soak
.PHONY: coverage bench-check bench-full
.PHONY: check bench screenshots format proto lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv, the locked environment (every other target does it by itself)
	@scripts/bootstrap

serve: setup ## run the server on its data directory .data; more options: make serve ARGS="--help"
	@.venv/bin/coatcheck serve --data-dir .data $(ARGS)

test: setup ## run every tier of tests, each within its budget of time
	@$(PYTHON) scripts/test_tiers.py core stores transports browser faults -- $(ARGS)

test-core: setup ## tests that need no service
	@$(PYTHON) scripts/test_tiers.py core -- $(ARGS)

test-stores: setup ## tests of the stores
	@$(PYTHON) scripts/test_tiers.py stores -- $(ARGS)

test-transports: setup ## tests through the real server and its edge
	@$(PYTHON) scripts/test_tiers.py transports -- $(ARGS)

test-browser: setup ## tests in Chromium
	@$(PYTHON) scripts/test_tiers.py browser -- $(ARGS)

test-faults: setup ## tests that kill, fill and cut
	@$(PYTHON) scripts/test_tiers.py faults -- $(ARGS)

test-slow: setup ## long tests, without a budget
	@$(PYTHON) scripts/test_tiers.py slow -- $(ARGS)

coverage: setup ## whether the tests run enough of the library: the tiers that count, once more, without budgets
	@$(PYTHON) scripts/test_tiers.py --coverage core stores faults engines -- $(ARGS)

soak: setup ## load with faults in random order, for SECONDS (600): make soak SECONDS=3600
	@$(PYTHON) scripts/soak.py $(SECONDS) $(ARGS)

test-matrix: setup ## the core tests on each Python from 3.11 to 3.14 that is on this machine
	@$(PYTHON) scripts/test_matrix.py $(ARGS)

check: setup ## formatting, lint, types, layers, wheels, promises: what comes before the tests
	@$(PYTHON) scripts/check.py $(ARGS)

bench: setup ## measure it beside what people use today
	@$(PYTHON) -m bench $(ARGS)

screenshots: setup ## pictures of each view of the page, into .reports/screenshots; the README's three with ARGS=--readme
	@scripts/need-debian chromium=chromium 'fonts-liberation=/usr/share/fonts/truetype/liberation*' 'fonts-vlgothic=/usr/share/fonts/truetype/vlgothic'
	@$(PYTHON) scripts/screenshots.py $(ARGS)

bench-check: setup ## the same, and fail where a target is missed
	@$(PYTHON) -m bench --check $(ARGS)

bench-full: setup ## with ten million stored sessions; takes an hour
	@$(PYTHON) -m bench --full $(ARGS)

format: setup ## format the code and mend what can be mended by itself
	@.venv/bin/ruff check --fix-only --quiet . && .venv/bin/ruff format .

proto: setup ## write the Python of proto/ anew
	@$(PYTHON) scripts/proto.py

lock: ## resolve the dependencies anew into uv.lock; one alone: make lock ARGS="--upgrade-package NAME"
	@scripts/uv lock $(ARGS)

clean: ## remove reports and caches (neither .venv nor .data)
	@rm -rf .reports .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* dist
	@find . -name __pycache__ -not -path './.venv*' -not -path './.tools/*' -prune -exec rm -rf {} +
