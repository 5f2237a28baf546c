# Everything is one command; `make help` lists them.
PYTHON ?= python3
SERVER := .venv
DEV    := .venv-dev
BIN    := $(DEV)/bin
MODEL  ?= mnist
# the GPU build where a GPU answers, else the CPU build; never both (they overwrite each other)
EXTRA  := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
STEPS  := $(MAKEFILE_LIST) pyproject.toml
PIP    := install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install dev serve demo test lint format protos train bench tools clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(SERVER)/.done ## install the server alone (no torch) into .venv

$(SERVER)/.done: $(STEPS)
	$(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/pip $(PIP) -e ".[$(EXTRA)]"
	@touch $@

dev: $(DEV)/.done ## install everything a developer needs into .venv-dev

# torch first and by itself: a later range must not replace the CPU build by one with CUDA in it
$(DEV)/.done: $(STEPS)
	$(PYTHON) -m venv $(DEV)
	$(BIN)/pip $(PIP) "torch==2.13.0"
	$(BIN)/pip $(PIP) -e ".[$(EXTRA),train,dev]"
	@touch $@

tools: # a real redis-server, real load, real alert rules
	@command -v redis-server >/dev/null && command -v h2load >/dev/null && command -v promtool >/dev/null || deploy/install-test-tools.sh

serve: install ## serve the three shipped models on this machine
	$(SERVER)/bin/sluice serve $(ARGS)

demo: install ## start a server, ask each model one question, stop it
	$(SERVER)/bin/python -m server demo

test: dev tools lint ## every test, lint included
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/unit
	$(BIN)/python -m pytest -q --durations=15 tests/contract tests/integration tests/trainer tests/chaos

lint: dev ## style, types, layers, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

format: dev ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: dev ## regenerate server/pb from protos/
	$(BIN)/python protos/generate.py

train: dev ## train a model and write it to model_store (MODEL=churn|mnist|sentiment)
	$(BIN)/sluice-train $(MODEL) $(ARGS)

clean: ## remove what the targets above made
	rm -rf $(SERVER) $(DEV) .venv-check .venv-triton .mypy_cache .ruff_cache .pytest_cache .hypothesis out *.egg-info

# --- deploy ---
CHECK := .venv-check
.PHONY: up down compose-test dashboards check-deploy check-tools

up: ## start server, Prometheus and Grafana in containers (FILES="-f docker-compose.yml -f docker-compose.gpu.yml")
	docker compose $(FILES) up --build --detach --wait $(ARGS)

down: ## stop them; the data stays in the volumes
	docker compose $(FILES) --profile traffic --profile alerts down $(ARGS)

compose-test: dev ## the compose file on a real engine of its own, end to end (root on Debian; skipped elsewhere)
	PYTHON=$(BIN)/python deploy/compose-test.sh $(ARGS)

dashboards: dev ## regenerate Grafana's dashboards and docs/metrics.md
	$(BIN)/python -m deploy.grafana.dashboards
	$(BIN)/python -m deploy.check.metrics_page

lint: check-deploy
check-deploy: dev ## dashboards, Prometheus rules, Dockerfile, compose files and Helm chart, by the tools that are here
	$(BIN)/python -m deploy.check

check-tools: $(CHECK)/.done ## install hadolint, Helm as a library and the Kubernetes schemas into .venv-check
$(CHECK)/.done: deploy/check/requirements.txt
	$(PYTHON) -m venv $(CHECK)
	$(CHECK)/bin/pip $(PIP) -r deploy/check/requirements.txt
	@touch $@

# --- bench ---
.PHONY: bench bench-short bench-gpu bench-large bench-queue overload swap session-kill fuzz

bench: dev tools ## measure against the baselines and the limits, on a quiet machine (20 minutes)
	$(BIN)/python -m bench.suite --json out/bench.json --plots docs/img $(ARGS)

bench-short: dev tools ## the same in half a minute, with bars for a busy machine
	$(BIN)/python -m bench.suite --quick $(ARGS)

bench-gpu: dev ## on a GPU, beside ONNX Runtime alone on it
	$(BIN)/python -m bench.gpu --json out/bench-gpu.json $(ARGS)

bench-large: dev tools ## 1 MB and 16 MB requests beside the bare transport
	$(BIN)/python -m bench.large $(ARGS)

overload: dev ## offer 1.2, 2 and 5 times what the server can do: goodput must hold
	$(BIN)/python -m tests.load.overload $(ARGS)

swap: dev ## a version swap a second under load: no call may fail
	$(BIN)/python -m tests.load.swap $(ARGS)

fuzz: dev ## hostile frames and random interleavings for the HTTP/2, from another seed each time (20 minutes)
	FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} FUZZ_CONVERSATIONS=$${FUZZ_CONVERSATIONS:-30000} HTTP2_EXAMPLES=$${HTTP2_EXAMPLES:-3000} \
	  $(BIN)/python -m pytest -q tests/contract/test_http2_fuzz.py tests/contract/test_http2_properties.py \
	  tests/contract/test_http2_header_properties.py $(ARGS)

bench-queue: dev tools ## the path through Redis beside the path in one process and bare Redis
	$(BIN)/python -m tests.chaos.throughput $(ARGS)

session-kill: dev ## kill -9 of the session child under load: nothing may be lost
	$(BIN)/python -m tests.load.session_kill $(ARGS)
