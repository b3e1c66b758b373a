# `make demo` and `make test` need Python 3.11 or newer, pip and make; they create .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
# Environments with the oldest and the newest supported frameworks; tests/compat/ names them.
COMPAT ?= .venv-compat
COMPAT_SETS := oldest newest
COMPAT_TESTS := $(COMPAT_SETS:%=test-compat-%)

.PHONY: help demo test test-compat $(COMPAT_TESTS) lint format bench docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Two stamps, so that a first look installs no framework and no test tool.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[all,dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## retrieve, rerank and show before and after, offline, with the bundled model
	@$(BIN)/rerank-plugins demo

test: $(VENV)/.dev lint ## lint, types, and the whole test suite with coverage
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90

test-compat: $(COMPAT_TESTS) ## contract tests with the oldest and the newest supported frameworks

$(COMPAT_TESTS): test-compat-%: $(COMPAT)/%/.done
	@$(COMPAT)/$*/bin/python -m pip freeze | grep -E '^(langchain-core|llama-index-core|haystack-ai)=='
	$(COMPAT)/$*/bin/python -m pytest -r fEs tests/contract
	$(COMPAT)/$*/bin/python -m pytest -r fEs tests/test_docs.py \
		-k "(top_to_bottom or needs) and (langchain or llama-index or haystack) and not reference"

# Eager, so that a set that is made again has what is newest by then.
$(COMPAT_SETS:%=$(COMPAT)/%/.done): $(COMPAT)/%/.done: tests/compat/%.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --upgrade --upgrade-strategy eager \
		--requirement $< --editable .
	@touch $@

lint: $(VENV)/.dev ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## speed against what is installed, scaling and memory, on this machine
	$(BIN)/rerank-plugins bench
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/accuracy.py

docs: $(VENV)/.dev ## build the documentation into site/, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove the environment and caches
	rm -rf $(VENV) $(COMPAT) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist site
