# All that can be done here; `make` alone lists it.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
# Whichever build of torch pip is configured for; e.g. TORCH=./torch-2.13.0-....whl or a build with another CUDA.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CODE := app models training tests examples benchmarks

.PHONY: help install serve test lint format type lock train evaluate clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(VENV)/.serve ## make .venv with the service, from pinned requirements: .venv/bin/genserve

serve: install ## serve the weights of the repository (HOST=, PORT=)
	$(BIN)/genserve serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev ## run the tests (ARGS= for pytest)
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev ## check style and the direction of imports
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports

format: $(VENV)/.dev ## rewrite the code in the project's style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

type: $(VENV)/.dev ## check types
	$(BIN)/mypy

train: $(VENV)/.dev ## train a model: make train RECIPE=training/recipes/fashion-gan.toml (ARGS=--resume)
	$(BIN)/python -m training.train $(RECIPE) $(ARGS)

evaluate: $(VENV)/.dev ## measure committed weights: make evaluate NAME=fashion-gan
	$(BIN)/python -m training.evaluate $(NAME)

lock: ## pin requirements/*.txt anew, from pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q $(TORCH)
	build/lock/bin/python -m pip install -q .
	build/lock/bin/python -m pip freeze --exclude genserve | grep -vE '^(torch|triton|nvidia-|cuda-)' >requirements/serve.txt
	build/lock/bin/python -m pip install -q '.[train,dev]'
	build/lock/bin/python -m pip freeze --exclude genserve | grep -vE '^(torch==|torch @|triton|nvidia-|cuda-)' >requirements/dev.txt

clean: ## remove what was built, the environment too
	rm -rf $(VENV) build *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(VENV)/bin/python requirements/serve.txt pyproject.toml
	$(PIP) install -q '$(TORCH)' -r requirements/serve.txt
	$(PIP) install -q --no-deps -e .
	touch $@

$(VENV)/.dev: $(VENV)/.serve requirements/dev.txt
	$(PIP) install -q -r requirements/dev.txt
	touch $@
