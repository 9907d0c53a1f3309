# Two commands: `make run` starts Label Studio and the backend with a sample project, `make test` passes every test.
# Settings: PORT, LABEL_STUDIO_PORT, PYTHON, UPGRADE, e.g. `make run PORT=9191`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PORT ?= 9090
LABEL_STUDIO_PORT ?= 8080
UPGRADE ?=
VERSIONS ?=
export PYTHON

REQUIREMENTS := docker/requirements
BIN := .venv/bin
# While these stamps are newer than what they were made from, there is nothing to do.
SETUP := .venv/.installed
SETUP_LABEL_STUDIO := .venv-label-studio/.installed
# Environments name their own folder in every script: in a copy or after a move they would run the other one's code.
ifneq ($(shell [ ! -e $(SETUP) ] || [ "$$(cat $(SETUP))" = "$(CURDIR)" ] || echo moved),)
$(info This folder was copied or moved: its environments are made again.)
$(shell rm -rf .venv .venv-label-studio)
endif
COMPILE := $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"

.PHONY: help setup setup-label-studio run serve worker test test-fast soak compat docker-test check format lock clean docs audit

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(SETUP) ## .venv: the backend, the models and the developers' tools

setup-label-studio: $(SETUP_LABEL_STUDIO) ## .venv-label-studio: Label Studio in an environment of its own

$(SETUP): $(REQUIREMENTS)/premask.txt $(REQUIREMENTS)/uv.txt $(REQUIREMENTS)/install.sh pyproject.toml
	@echo "Installing premask into .venv (the first time this fetches about 3 GB) ..."
	@$(REQUIREMENTS)/install.sh .venv $(REQUIREMENTS)/premask.txt 12 14
	@VIRTUAL_ENV="$(CURDIR)/.venv" $(BIN)/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@

$(SETUP_LABEL_STUDIO): $(REQUIREMENTS)/label-studio.txt $(REQUIREMENTS)/uv.txt $(REQUIREMENTS)/install.sh
	@echo "Installing Label Studio into .venv-label-studio ..."
	@$(REQUIREMENTS)/install.sh .venv-label-studio $(REQUIREMENTS)/label-studio.txt 2 13
	@echo "$(CURDIR)" > $@

run: $(SETUP) $(SETUP_LABEL_STUDIO) ## Label Studio and the backend with a sample project; Ctrl-C stops both
	@$(BIN)/premask demo --port $(PORT) --label-studio-port $(LABEL_STUDIO_PORT)

serve: $(SETUP) ## the backend and its job worker, for a Label Studio of your own
	@$(BIN)/premask serve --port $(PORT)

worker: $(SETUP) ## one more job worker
	@$(BIN)/premask worker

test: $(SETUP) $(SETUP_LABEL_STUDIO) ## every test, also those with a real Label Studio and a browser
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(SETUP) ## the tests for daily work: no server, no browser, no training; under 3 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not soak and not docker"

soak: $(SETUP) $(SETUP_LABEL_STUDIO) ## the tests that take minutes each, with their figures: kills, load, memory, 1,000 tasks
	@$(BIN)/python -m pytest -m soak -rP

compat: $(SETUP) ## try several Label Studio releases, minutes each, and write docs/compatibility.md; VERSIONS="1.18.0" tries others
	@$(BIN)/python -m tests.compat $(VERSIONS)

docker-test: $(SETUP) $(SETUP_LABEL_STUDIO) ## build the image without Docker and run it; needs root, 20 GB and some Debian packages
	@$(BIN)/python -m pytest -m docker

check: $(SETUP) ## formatting, lint and types, as in pre-commit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

audit: $(SETUP) ## known vulnerabilities of every pinned package, where the package index tells them
	@$(BIN)/python $(REQUIREMENTS)/audit.py $(wildcard $(REQUIREMENTS)/*.txt)

format: $(SETUP) ## rewrite the files as `make check` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(SETUP) ## the documentation as a site, strictly, into .cache/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open .cache/site/index.html; for its search: python3 -m http.server --directory .cache/site"

lock: $(SETUP) ## lock what pyproject.toml asks for, with hashes; UPGRADE=--upgrade moves all to the newest allowed
	@$(COMPILE) $(REQUIREMENTS)/uv.in -o $(REQUIREMENTS)/uv.txt
	@$(COMPILE) pyproject.toml --extra dev -o $(REQUIREMENTS)/premask.txt
	@$(COMPILE) pyproject.toml --extra s3 --constraints $(REQUIREMENTS)/premask.txt --no-annotate -o $(REQUIREMENTS)/runtime.txt
	@$(COMPILE) --no-config $(REQUIREMENTS)/label-studio.in -o $(REQUIREMENTS)/label-studio.txt

clean: ## remove both environments and the caches; your data in premask-data stays
	@rm -rf .venv .venv-label-studio .cache .mypy_cache .ruff_cache .pytest_cache *.egg-info
