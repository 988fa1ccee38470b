# `make help` lists what can be done. Everything runs in .venv, which is made on first use.
PYTHON     ?= python3
VENV       := .venv
BIN        := $(VENV)/bin
LOCK       := images/requirements.lock
NAMES      := $(sort $(wildcard images/*/requirements.in)) pipelines/requirements.in tests/requirements.in
PIP        := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(LOCK)
# where Linux machines without a GPU find PyTorch without CUDA; empty = the usual index has it
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PARAMS     ?= pipelines/params/demo.yaml
ARGS       ?=
REGISTRY   ?=
RELEASE    ?=
NETWORK    ?= default
HOST       ?=
EXPERIMENT ?= scgpt-perturb
PACKAGE    ?=
MODEL      ?=
DATASET    ?=
RUN        ?=
REASON     ?=
KEEP       ?=
SAMPLE     ?= 300
SEED       ?= 1
MODULES    ?= finetune evaluate split compare shared
PACKAGES   ?= pipelines/compiled
CONTEXT    ?=
OVERLAY    ?= gke-h100
PROJECT    ?=
BUCKET     ?=
# read by the shell as variables, so that & and [ ] in them are safe
export ARGS BUCKET CONTEXT DATASET EXPERIMENT HOST KEEP MODEL MODULES OVERLAY PACKAGE PACKAGES PARAMS PROJECT REASON \
       REGISTRY RUN SAMPLE SEED

# make run prior=none or PARAM=... would run the demo as it is: parameters of a pipeline go into ARGS
TAKEN      := ARGS BUCKET CONTEXT DATASET EXPERIMENT HOST KEEP MODEL MODULES NETWORK OVERLAY PACKAGE PACKAGES PARAMS \
              PROJECT PYTHON REASON REGISTRY RELEASE RUN SAMPLE SEED SHELL TORCH_INDEX VERBOSE
GIVEN      := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
NOT_TAKEN  := $(firstword $(filter-out $(TAKEN) -% MAKE%,$(GIVEN)))
ifneq ($(NOT_TAKEN),)
$(error $(NOT_TAKEN)=... is not a variable of make ($(TAKEN)); give a parameter of the pipeline in ARGS: \
  ARGS="'$(NOT_TAKEN)=$($(NOT_TAKEN))'")
endif

.DEFAULT_GOAL := help
.PHONY: help env run compare predict run-containers test lint types compile check-compiled validate images push load \
        render test-containers test-live submit upload ablation priors mutants golden lock runs report clean clean-runs

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'
	@echo '  make run PARAMS=<file> [ARGS="key=value ..."]   parameter files: '$(notdir $(wildcard pipelines/params/*.yaml))

env: $(VENV)/.installed ## make the environment (.venv)

$(VENV)/.installed: pyproject.toml $(LOCK) $(NAMES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; give PYTHON=<path>")'
	@echo "making $(VENV) (a minute or two, about 3 GB, 7 GB with CUDA)"
	@$(PYTHON) -m venv $(VENV)
	@# PyPI's torch for Linux brings 4 GB of CUDA along, which a machine without a GPU has no use for
	@[ "$$(uname -s)" != Linux ] || [ -z "$(TORCH_INDEX)" ] || command -v nvidia-smi > /dev/null \
	  || $(PIP) --no-deps --retries 1 --timeout 15 --index-url $(TORCH_INDEX) torch 2> /dev/null \
	  || echo "no CPU build of PyTorch at $(TORCH_INDEX): taking the usual one"
	@$(PIP) $(addprefix -r ,$(NAMES)) -e .
	@# scgpt asks for torchtext, scvi-tools and more that its model does not import
	@$(PIP) --no-deps scgpt
	@# numba compiles what cell-eval's clusters use on the first import, here rather than in the first run
	@$(BIN)/python -c "import umap" 2> /dev/null || true
	@touch $@

run: env ## run the pipeline here: PARAMS=<file> ARGS="key=value ..." [VERBOSE=1]
	@$(BIN)/python -m pipelines.run "$$PARAMS" --assign "$$ARGS"

compare: env ## compare priors here: PARAMS=<file with priors and seeds> ARGS="key=value ..."
	@$(BIN)/python -m pipelines.run $(if $(filter file,$(origin PARAMS)),pipelines/params/compare-demo.yaml,"$$PARAMS") --comparison --assign "$$ARGS"

predict: env ## apply a published model: MODEL=<folder or URI> DATASET=<h5ad> ARGS="perturbations=[MYC, TP53] ..."
	@$(if $(MODEL),,echo "predict: give MODEL=<folder that publish wrote, or its URI>" >&2; exit 2)
	@$(if $(DATASET),,echo "predict: give DATASET=<h5ad of control cells>" >&2; exit 2)
	@$(BIN)/python -m pipelines.run predict-line "model=$$MODEL" "dataset=$$DATASET" --assign "$$ARGS"

run-containers: images ## the same with every task in its image
	@$(BIN)/python -m pipelines.run "$$PARAMS" --assign "$$ARGS" --containers

test: env ## lint, types, compile check and all tests but those in containers and on a cluster
	@# Workers take all CPUs: threads of one would only wait for those of another (three are no faster).
	@# Tests start hundreds of processes, each of which would compile every module that is not kept.
	@{ $(MAKE) --no-print-directory lint && $(BIN)/mypy; } & beside=$$!; \
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/containers --ignore tests/live; \
	tests=$$?; wait $$beside || { echo "style or types: what is wrong is above" >&2; exit 1; }; exit $$tests

lint: env ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/hadolint images/Dockerfile
	@$(BIN)/yamllint --strict manifests pipelines/params pipelines/validation .github

types: env ## check types
	@$(BIN)/mypy

compile: env ## compile the pipelines to pipelines/compiled; RELEASE=1: with digests, to build/release
	@$(BIN)/python -m pipelines.compile $(if $(RELEASE),--release)

check-compiled: env ## fail when the compiled pipeline is not what the code compiles to
	@$(BIN)/python -m pipelines.compile --check

validate: check-compiled ## check manifests, compiled pipeline and parameter files against each other
	@$(BIN)/python -m pipelines.validate

images: env ## build the images that are not there yet
	@$(BIN)/python -m pipelines.images build --network $(NETWORK)

push: env ## push the images to REGISTRY=<host>/<path> and pin them in images/images.lock
	@$(BIN)/python -m pipelines.images push "$$REGISTRY"

load: env ## load the images into kind
	@kind load docker-image $$($(BIN)/python -m pipelines.images list)

render: ## print what to apply on GKE: PROJECT=<yours> BUCKET=<yours> [OVERLAY=gke-h100-kueue]
	@$(if $(PROJECT),,echo "render: give PROJECT=<your Google Cloud project>" >&2; exit 2)
	@$(if $(BUCKET),,echo "render: give BUCKET=<your bucket>" >&2; exit 2)
	@objects=$$(kubectl kustomize "manifests/overlays/$$OVERLAY") \
	  && printf '%s\n' "$$objects" | sed "s/your-project/$$PROJECT/; s/your-bucket/$$BUCKET/"

test-containers: env ## build the images, check them, run the pipeline in them
	@$(BIN)/python -m pytest tests/containers -rs

test-live: env ## try everything on a cluster, 45 minutes: HOST=<url of KFP's UI> [CONTEXT=<of kubectl> PACKAGES=<folder>]
	@$(if $(HOST),,echo "test-live: give HOST=<address of KFP's UI>" >&2; exit 2)
	@LIVE_HOST="$$HOST" LIVE_CONTEXT="$$CONTEXT" LIVE_PACKAGES="$$PACKAGES" $(BIN)/python -m pytest tests/live -rs -s -v

submit: env ## run on a cluster: HOST=<url> [PARAMS= ARGS= EXPERIMENT= RUN=<name> PACKAGE=<compiled>]
	@$(if $(HOST),,echo "submit: give HOST=<address of KFP's UI>" >&2; exit 2)
	@$(BIN)/python -m pipelines.submit "$$PARAMS" --host "$$HOST" --experiment "$$EXPERIMENT" --run "$$RUN" $(if $(PACKAGE),--package "$$PACKAGE") --assign "$$ARGS"

upload: env ## the compiled pipelines with a short manual each: HOST=<url of KFP's UI> [PACKAGES=<folder>]
	@$(if $(HOST),,echo "upload: give HOST=<address of KFP's UI>" >&2; exit 2)
	@$(BIN)/python -m pipelines.upload --host "$$HOST" --packages "$$PACKAGES"

ablation: env ## what each change to the reference recipe is worth: writes docs/ablation.md, resumes where it stopped
	@$(BIN)/python -m benchmarks.ablation

priors: env ## what each prior is worth on generated screens: writes docs/priors.md, resumes where it stopped
	@$(BIN)/python -m benchmarks.compare_priors

mutants: env ## plant faults that tests should notice, resumes where it stopped: [SAMPLE=<count, or all> SEED= MODULES="split evaluate/pair"]
	@$(BIN)/python -m benchmarks.mutants --sample "$$SAMPLE" --seed "$$SEED" --modules "$$MODULES"

golden: env ## rewrite the loss curves that training is tested against: REASON="why training changed"
	@$(if $(strip $(REASON)),,echo 'golden: give REASON="why training changed"' >&2; exit 2)
	@WANDB_MODE=disabled $(BIN)/python -m benchmarks.golden --reason "$$REASON"

lock: env ## pin the versions that are installed now
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip > $(LOCK).partial
	@sed -i.partial 's/+cpu$$//' $(LOCK).partial && mv $(LOCK).partial $(LOCK) && rm $(LOCK).partial.partial

runs: env ## list the runs that are kept here, the newest first
	@$(BIN)/python -m pipelines.command runs

report: env ## print where the newest report is
	@$(BIN)/python -m pipelines.command report

clean: ## remove the environment and every cache; runs stay
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-runs: env ## remove all runs but the newest: KEEP=<how many stay>
	@$(if $(KEEP),,echo "clean-runs: give KEEP=<how many of the newest runs stay>" >&2; exit 2)
	@$(BIN)/python -m pipelines.command runs --keep "$$KEEP"
