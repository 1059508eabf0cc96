# Each target does all its own set-up: `make demo` and `make test` work in a fresh clone.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first interpreter that is new enough; `make PYTHON=… setup` takes another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)

BIN := .venv/bin
# Tests at once: they wait more than they compute. `make test JOBS=0` runs one after the other.
# Neighbours stay together for as long as nobody is idle (worksteal): what they share is started once.
JOBS ?= 3
STAMP := .venv/.set-up
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup demo test check fix bench oracle soak fuzz kills clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## .venv with both packages, editable, at the versions in constraints.txt

$(STAMP): pyproject.toml clients/python/pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed, and none was found (make PYTHON=/path/to/python3 setup)" >&2; exit 1; fi
	@echo "Setting up .venv with $$("$(PYTHON)" --version); the first time takes a minute"
	@[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]' --editable ./clients/python
	@touch $@

demo: $(STAMP) ## a server, a few real commands as runs, and their changes as they are pushed; STAY=1 keeps it up
	@$(BIN)/realtime demo $(if $(STAY),--stay)

# Each worker and each server of a test would compile all sources anew; images for containers often
# ask for that.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP) ## every test, on SQLite, PostgreSQL, memory and Redis
	@$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=worksteal -m "not alone" $(ARGS) || { \
		echo; echo "What failed beside others is run again, alone: it has to pass then."; \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures=none -m "not alone" $(ARGS); }
	@echo; echo "And alone, what measures how a page feels:"
	@$(BIN)/python -m pytest --quiet -m alone $(ARGS) || [ $$? = 5 ]

check: $(STAMP) ## format, lint, types, import contracts; changes nothing
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(STAMP) ## formats, and mends what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	cp clients/js/src/*.js realtime/dash/client/

bench: $(STAMP) ## the benchmarks
	@$(BIN)/python -m bench $(ARGS)

oracle: $(STAMP) ## random histories and faults, for longer than `make test` takes
	@$(BIN)/python -m pytest tests/oracle --hypothesis-profile=long --timeout=0 $(ARGS)

fuzz: $(STAMP) ## ten minutes of fuzzed bytes on a server's port
	@$(BIN)/python -m tests.security.fuzz $(ARGS)

soak: $(STAMP) ## real servers under a steady load for minutes, with a fault every five seconds
	@$(BIN)/python -m tests.soak $(ARGS)

kills: $(STAMP) ## kill -9 of server and worker at every place of a job run, on both databases
	@$(BIN)/python -m pytest tests/e2e/every_kill.py --numprocesses=$(JOBS) --dist=worksteal $(ARGS)

clean: ## removes the virtual environment, caches and what was built
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
