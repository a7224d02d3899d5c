# The two commands that matter: `make serve` and `make test`. Both set up what they need.

MODEL ?= examples/digits/torch-zip
PORT  ?= 5001
PYTHON ?= python3.11

VENV := .venv
READY := $(VENV)/.ready
EXAMPLE := examples/digits/request.json

.PHONY: help setup serve test test-slow fuzz soak lint format example bench lock clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## the virtual environment, with the pinned dependencies

$(READY): requirements.lock requirements-dev.lock pyproject.toml
	test -x $(VENV)/bin/python || $(or $(shell command -v $(PYTHON)),python3) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

example: $(EXAMPLE)  ## train the example once, and save it in every format

$(EXAMPLE): examples/train_digits.py models/digits_cnn.py | $(READY)
	$(VENV)/bin/python examples/train_digits.py

serve: $(READY) $(if $(findstring examples/digits,$(MODEL)),$(EXAMPLE))  ## serve MODEL on PORT (default: the example)
	$(VENV)/bin/score serve $(MODEL) --port $(PORT)

test: $(READY)  ## all fast tests
	$(VENV)/bin/python -m pytest

lint: $(READY)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)  ## let ruff format the code
	$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

fuzz: $(READY)  ## mutate checkpoints of every format; bounded by MUTANTS and SECONDS
	$(VENV)/bin/python -m tests.fuzz --mutants $(or $(MUTANTS),10000) --seconds $(or $(SECONDS),900)

soak: $(READY)  ## twice the load that the server can carry; bounded by SECONDS (default: five minutes)
	$(VENV)/bin/python -m tests.soak --seconds $(or $(SECONDS),300)

test-slow: $(READY)  ## the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow

bench: $(READY)  ## what bench/README.md reports
	$(VENV)/bin/python bench/load.py
	$(VENV)/bin/python bench/serve.py

lock:  ## write the lock files again, with the newest versions that pyproject.toml admits
	$(PYTHON) tools/lock.py

clean:  ## remove everything that was made here
	rm -rf $(VENV) .cache examples/digits build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
