# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
# Another interpreter, as in "make test PYTHON=python3.13", gets an environment of its own.
VENV ?= .venv$(addprefix -,$(notdir $(filter-out python3,$(PYTHON))))
BIN := $(VENV)/bin

.DEFAULT_GOAL := test
# Two targets would install into one environment at once.
.NOTPARALLEL:

# One stamp for each extra: changed metadata installs again, an interrupted installation leaves
# no stamp, and an environment that was left half made, without pip, is made anew.
$(VENV)/.%: setup.cfg pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	'This needs Python 3.11 or newer; name one, as in: make $(MAKECMDGOALS) PYTHON=python3.11')"
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]" \
		$(addprefix --constraint=,$(CONSTRAINTS))
	@touch $@

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: test
test: $(VENV)/.test  ## the whole suite, on SQLite and an embedded PostgreSQL
	$(BIN)/python -m pytest -n logical

.PHONY: test-lowest
test-lowest:  ## the whole suite, with the oldest versions of what is needed
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=tests/lowest.txt

.PHONY: test-deep
test-deep: $(VENV)/.test  ## the long forms of the tests of money: histories, threads (half an hour)
	$(BIN)/python -m pytest -m deep

.PHONY: test-crash
test-crash: $(VENV)/.test  ## kill servers and programs in the middle of sales, 24 times
	$(BIN)/python -m pytest -m crash

.PHONY: test-neighbours
test-neighbours:  ## one application with the extensions that hosts use
	@$(MAKE) .venv-neighbours/.test .venv-neighbours/.neighbours VENV=.venv-neighbours
	.venv-neighbours/bin/python -m pytest -m neighbours tests/neighbours

.PHONY: test-browser
test-browser: $(VENV)/.browser $(VENV)/.test $(VENV)/.demo  ## what people see, in a real Chromium
	$(BIN)/python -m pytest -m browser tests/browser

.PHONY: screenshots
screenshots: $(VENV)/.browser $(VENV)/.test $(VENV)/.demo  ## the pictures in README and docs, made anew
	$(BIN)/python -m tests.browser.screenshots

ATTACKS := tests/attacks tests/rls tests/proof/test_barriers.py $(addprefix tests/web/test_,hostile_requests.py \
	cross_site.py cookies.py) $(wildcard tests/payments/test_*signatures.py) tests/payments/test_events.py
.PHONY: attacks
attacks: $(VENV)/.test  ## what an attacker tries, by the classes of SECURITY.md
	$(BIN)/python -m pytest -n logical $(ATTACKS)

.PHONY: lint
lint: $(VENV)/.lint $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: messages
messages: $(VENV)/.test  ## bring the translations in line with the sentences of the package
	$(BIN)/python -m tests.messages

.PHONY: package
package: $(VENV)/.lint  ## build the wheel and use it outside the checkout
	$(BIN)/python tests/package.py

.PHONY: bench
bench: $(VENV)/.bench  ## measure us beside bare SQL and an ordinary ORM version (five minutes)
	$(BIN)/python -m benchmarks

.PHONY: bench-scale
bench-scale: $(VENV)/.bench  ## the same at 10 thousand, one and ten million clicks (an hour)
	$(BIN)/python -m benchmarks.scale

.PHONY: demo
demo: $(VENV)/.demo  ## the demo application on http://127.0.0.1:5000 (PORT=... for another)
	@$(BIN)/python -m examples.demo

.PHONY: clean
clean:  ## remove what the other targets made, the demo's data included
	rm -rf .venv* build dist *.egg-info .*_cache .hypothesis examples/demo/instance examples/instance
