# `make demo` and `make test` each do all the set-up they need; both reuse .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# the versions that were tested, where there is a file for this Python; CONSTRAINTS= takes the newest that setup.cfg allows
CONSTRAINTS ?= $(wildcard constraints/python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %)
PLUGINS := $(patsubst %/setup.cfg,%,$(wildcard plugins/*/setup.cfg))
PLUGIN_STAMP := $(VENV)/.plugins

.PHONY: demo test fast exact lint site wheel audit clean help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "flowgen needs Python 3.10 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf *.egg-info  # entry points of an earlier install would hide new ones
	$(PIP) --editable '.[dev]'
	touch $(STAMP)

$(PLUGIN_STAMP): $(STAMP) $(PLUGINS:%=%/setup.cfg)
	$(PIP) $(PLUGINS:%=--editable ./%)
	touch $@

demo: $(STAMP)  ## train small audio and video generators, sample them, write runs/demo/report.html
	$(BIN)/flowgen demo

test: $(PLUGIN_STAMP)  ## lint, types and all tests; what fails is named at the end
	@failed=; \
	run() { echo "--- $$1"; what=$$1; shift; "$$@" || failed="$$failed  $$what\n"; }; \
	run "ruff check" $(BIN)/ruff check .; \
	run "ruff format" $(BIN)/ruff format --check .; \
	run "mypy" $(BIN)/mypy; \
	run "tests" $(BIN)/python -m pytest -q -n 2 --dist loadfile; \
	for plugin in $(PLUGINS); do run "$$plugin" sh -c "cd $$plugin && ../../$(BIN)/python -m pytest -q"; done; \
	if [ -n "$$failed" ]; then printf "failed:\n$$failed"; exit 1; fi

fast: $(STAMP)  ## unit tests, in under 90 seconds
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" tests/core tests/nn tests/config tests/data

exact: $(STAMP)  ## the tests that promise exactness, with the plainest kernels that every processor has
	ATEN_CPU_CAPABILITY=default $(BIN)/python -m pytest -q -n 2 --dist loadfile -m exact

lint: $(STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

site: $(VENV)/site/.installed  ## build the documentation into site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(VENV)/site/bin/mkdocs build --quiet

$(VENV)/site/.installed:
	$(PYTHON) -m venv $(VENV)/site
	$(VENV)/site/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.5,<10' 'mkdocstrings[python]>=0.26'
	touch $@

wheel: $(STAMP)  ## build dist/flowgen-*.whl; the same commit gives the same bytes
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m pip wheel --quiet --no-deps -w dist .

audit: $(STAMP)  ## known vulnerabilities of the tested versions; fails where one cannot be looked up
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r $(CONSTRAINTS)

clean:  ## remove the virtual environment (runs/ stays)
	rm -rf $(VENV)
