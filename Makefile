# `make demo` and `make test` each do all the set-up they need; both reuse .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := $(patsubst %/setup.cfg,%,$(wildcard plugins/*/setup.cfg))
PLUGIN_STAMP := $(VENV)/.plugins

.PHONY: demo test lint docs clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "flowgen needs Python 3.10 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

$(PLUGIN_STAMP): $(STAMP) $(PLUGINS:%=%/setup.cfg)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PLUGINS:%=--editable ./%)
	touch $@

demo: $(STAMP)  ## train small audio and video generators, sample them, write runs/demo/report.html
	$(BIN)/flowgen demo

test: $(PLUGIN_STAMP)  ## lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadfile
	set -e; for plugin in $(PLUGINS); do (cd $$plugin && ../../$(BIN)/python -m pytest -q); done

lint: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the virtual environment (runs/ stays)
	rm -rf $(VENV)
