# `make help` lists what can be done. Everything runs in .venv, which is made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := images/requirements.lock
PARAMS ?= pipelines/params/demo.yaml
ARGS   ?=
export ARGS  # read by the shell as a variable, so that & and [ ] in it are safe

.DEFAULT_GOAL := help
.PHONY: help env run test lint types compile check-compiled lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'
	@echo '  make run PARAMS=<file> [ARGS="key=value ..."]   parameter files: '$(notdir $(wildcard pipelines/params/*.yaml))

env: $(VENV)/.installed ## make the environment (.venv)

$(VENV)/.installed: pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; give PYTHON=<path>")'
	@echo "making $(VENV) (a minute or two, about 2.5 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[all,dev]'
	@# scgpt asks for torchtext, scvi-tools and more that its model does not import
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) --no-deps scgpt
	@touch $@

run: env ## run the pipeline here: PARAMS=<file> ARGS="key=value ..."
	@$(BIN)/python -m pipelines.run $(PARAMS) --assign "$$ARGS"

test: lint types check-compiled ## lint, types, compile check and all tests
	@$(BIN)/python -m pytest

lint: env ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: env ## check types
	@$(BIN)/mypy

compile: env ## compile the pipeline to pipelines/compiled
	@$(BIN)/python -m pipelines.compile

check-compiled: env ## fail when the compiled pipeline is not what the code compiles to
	@$(BIN)/python -m pipelines.compile --check

lock: env ## pin the versions that are installed now
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > $(LOCK)

clean: ## remove the environment, the runs and every cache
	@rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .hypothesis .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
