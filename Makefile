# Two commands set a fresh machine up, with nothing but Python 3.11+ and make on it: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: run
run: $(VENV)/run ## Start the demo: a fake Invoisys with a sidecar in front of it.
	@exec $(BIN)/python -m proxy demo

.PHONY: test
test: lint $(VENV)/dev ## Check everything: style, types, layers, tests, coverage.
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term $(ARGS)

.PHONY: lint
lint: $(VENV)/dev ## Check style, types and layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/dev ## Put the code into the one form.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: schema
schema: $(VENV)/run ## Write config.schema.json anew.
	$(BIN)/python -m proxy schema > config.schema.json

.PHONY: lock
lock: $(VENV)/dev ## Lock the newest versions that fit, with their hashes.
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --group dev -c requirements.lock -o requirements-dev.lock pyproject.toml

.PHONY: clean
clean: ## Remove what the commands made.
	rm -rf $(VENV) .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the environment in $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Only what is locked by its hash is installed; the program itself runs from this folder.
$(VENV)/run: requirements.lock | $(VENV)/made
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
