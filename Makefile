# Every target sets up what it needs: Python 3.11 or newer, make and a package index are enough.
#   make demo           train the tiny policy with GRPO, evaluate it before and after, write build/demo/report.html
#   make test           the tests that need no torch
#   make help           the rest
# Overridable: PYTHON (an interpreter), VENV (where packages go), ARGS (more arguments for pytest or the demo).

VENV ?= .venv
ARGS ?=
WORKERS ?= auto
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PY := $(VENV)/bin/python
PINS := requirements/constraints.txt
PIP := $(PY) -m pip install --disable-pip-version-check --quiet --constraint $(PINS)
# 5 is pytest's word for "no test was collected".
NONE_IS_FINE = || [ $$? -eq 5 ]
PYTEST := $(PY) -m pytest --numprocesses=$(WORKERS) --maxprocesses=4 --dist=loadfile

# The first interpreter that is new enough and can make environments. Evaluated only where an environment is made.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.13 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help demo test test-parity test-hosts test-compiler goldens lint format types imports notebooks wheel clean distclean setup
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-13s %s\n", $$1, $$2 }'

demo: $(VENV)/.run ## GRPO on the tiny policy, evaluated before and after; writes build/demo/report.html
	$(VENV)/bin/pixelthink demo --out build/demo $(ARGS)

test: $(VENV)/.test ## Tests in one process, without torch, doctests included (ARGS="-k name" for some of them)
	$(PYTEST) --ignore=tests/parity --ignore=tests/multihost --without-torch $(ARGS)

test-hosts: $(VENV)/.test ## Tests of several processes on this machine
	$(PY) -m pytest tests/multihost $(ARGS)

test-parity: $(VENV)/.parity ## Tests against transformers in PyTorch
	$(PYTEST) tests/parity $(ARGS) $(NONE_IS_FINE)

test-compiler: $(VENV)/.tpu ## Tests that compile for slices of TPUs, which needs no TPU
	JAX_PLATFORMS=cpu PYTHONPATH=$(VENV)/tpu $(PY) -m pytest tests/plan/test_compiled.py $(ARGS)

goldens: $(VENV)/.parity ## Rebuild the committed golden outputs from transformers
	for script in $(wildcard tests/golden/make_*.py); do echo "$$script"; PYTHONPATH=. $(PY) "$$script"; done

lint: $(VENV)/.dev ## Check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.dev ## Mend what lint can mend by itself
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.dev ## Check types
	$(VENV)/bin/pyright --pythonpath $(PY)

imports: $(VENV)/.dev ## Check that imports follow the layers
	$(VENV)/bin/lint-imports --no-logo

notebooks: $(VENV)/.dev ## Run every notebook from top to bottom
	JUPYTER_PREFER_ENV_PATH=1 $(PY) -m pytest --nbmake --nbmake-timeout=600 notebooks $(ARGS) $(NONE_IS_FINE)

wheel: $(VENV)/.dev ## Build the source archive and the wheel into dist/
	rm -rf dist
	$(PY) -m build --outdir dist

setup: $(VENV)/.dev ## Everything for development but torch

clean: ## Remove what was built and cached
	rm -rf build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environment too
	rm -rf $(VENV)

# Stamps: one for each set of packages, made again when the project or its pins change.
$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "pixelthink needs Python 3.11 or newer with the venv module; found: $$(python3 --version 2>&1 || true)." >&2; \
		echo "Install one (on Debian or Ubuntu also its package python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"PYTHON={sys.executable} is Python {v[0]}.{v[1]}, but pixelthink needs 3.11 or newer")'
	@echo "making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.run: pyproject.toml $(PINS) | $(VENV)/bin/python
	@echo "installing the package into $(VENV) (about a minute, once)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@$(PIP) --editable '.[dev]'
	@touch $@

# The TPU compiler lies beside the environment, not in it: JAX looks for chips wherever it finds libtpu.
$(VENV)/.tpu: $(VENV)/.test
	@$(PIP) --no-deps --upgrade --target $(VENV)/tpu libtpu
	@touch $@

# torch first and by its exact version: a CPU build satisfies it where the index has one.
$(VENV)/.parity: $(VENV)/.test
	@$(PIP) $(TORCH)
	@$(PIP) $(TORCHVISION)
	@$(PIP) --editable '.[parity]'
	@touch $@
