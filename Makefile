# `make help` lists the targets. Two are enough to begin with: `make up` and `make test`.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export GATEWAY_CONFIG ?= models/local.yaml

.PHONY: help setup setup-dev fetch-models up down serve chat loadtest compile uncompile test test-all test-workers dashboards drawings check fmt lint type imports lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(VENV)/.runtime ## the environment in .venv, from hash-locked requirements
setup-dev: $(VENV)/.dev ## the same with everything that tests need

$(VENV)/.runtime: requirements/runtime.lock scripts/setup.sh
	@scripts/setup.sh "$(PYTHON)" $(VENV) requirements/runtime.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock scripts/setup.sh
	@scripts/setup.sh "$(PYTHON)" $(VENV) requirements/dev.lock
	@touch $@ $(VENV)/.runtime

$(VENV)/.compiler: requirements/compile.lock $(VENV)/.runtime
	@scripts/setup.sh "$(PYTHON)" $(VENV) requirements/compile.lock
	@touch $@

compile: $(VENV)/.compiler ## the hot modules as machine code, in .compiled; needs a C compiler, takes two minutes
	@$(PY) scripts/compile.py

uncompile: ## back to the sources
	rm -rf .compiled

fetch-models: setup ## the small models' weights, checked, in the user's cache
	@$(PY) -m gateway prepare

up: setup fetch-models ## gateway and a real small model on http://127.0.0.1:8000; Ctrl-C stops both
	@exec $(PY) -m gateway serve --hints

down: ## stop a gateway that runs in the background
	@scripts/down.sh

serve: setup ## the gateway alone, from GATEWAY_CONFIG, GATEWAY_HOST, GATEWAY_PORT
	@exec $(PY) -m gateway serve

chat: setup ## talk to it in the terminal
	@exec $(PY) examples/chat_cli.py

# More options in LOADTEST: make loadtest LOADTEST="--saturation"
loadtest: setup-dev ## simulated users against calibrated engines, and docs/PERFORMANCE_TEST.md; takes 8 minutes
	@$(PY) -m loadtest $(LOADTEST)

test: setup-dev ## everything that needs nothing but Python
	@GATEWAY_CONFIG=models/local.yaml $(PY) -m gateway prepare
	@$(PY) -m pytest -q -n 3 --dist loadfile

# With TESTED=1 (as CI says after `make test`) only what `make test` does not have.
test-all: $(if $(TESTED),,test) ## the same and the lanes that need system parts
	@$(MAKE) --no-print-directory test-workers
	@# Instructions are the same in number however busy the machine is: they are counted beside what mostly waits.
	@mkdir -p .run; nice -n 19 scripts/lane.sh instructions scripts/valgrind.sh >.run/instructions.log 2>&1 & \
	  counting=$$!; trap "kill $$counting 2>/dev/null" EXIT; set -e; \
	  scripts/lane.sh pipeline scripts/influxdb.sh scripts/telegraf.sh scripts/chromium.sh; \
	  scripts/lane.sh containers scripts/docker.sh; \
	  counted=0; wait $$counting || counted=$$?; trap - EXIT; cat .run/instructions.log; exit $$counted
	@scripts/lane.sh compiled scripts/compiler.sh

test-workers: setup-dev ## what is told on the wire, once more with two processes behind each address
	@TESTS_WORKERS=2 $(PY) -m pytest -q -n 3 --dist loadfile tests/fastpath tests/server_wire \
	  tests/test_connections.py tests/test_shutdown.py tests/test_serve.py tests/api/test_streams.py

dashboards: setup-dev ## write Grafana's JSON from monitoring/grafana
	@$(PY) -m monitoring.grafana

drawings: setup-dev ## docs/img/dashboard-*.png: each dashboard with real data, drawn by Grafana's own components
	@rm -rf .run/answers
	@PIPELINE_ANSWERS=.run/answers scripts/lane.sh pipeline scripts/influxdb.sh scripts/telegraf.sh scripts/chromium.sh
	@$(PY) -m monitoring.grafana.draw .run/answers docs/img
	@$(PY) -m monitoring.grafana.draw .run/answers docs/img zh

check: setup-dev fmt-check lint type imports test ## what has to pass before a commit

.PHONY: fmt-check
fmt-check: setup-dev
	@$(VENV)/bin/ruff format --check -q .

fmt: setup-dev ## format
	@$(VENV)/bin/ruff format -q . && $(VENV)/bin/ruff check --fix -q .

lint: setup-dev ## ruff
	@$(VENV)/bin/ruff check -q .

type: setup-dev ## mypy --strict
	@$(VENV)/bin/mypy

imports: setup-dev ## the layers, as executable contracts
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-cache

lock: setup-dev ## resolve pyproject.toml into requirements/*.lock
	@scripts/lock.sh $(VENV)

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .run .compiled
