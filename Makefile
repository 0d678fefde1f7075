# Kedge's two commands are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# The documentation has an environment of its own: mkdocs-material brings 140 MB that nothing else needs, and its
# dependencies must not bear on the versions of Kedge's own.
DOCS_VENV := .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
PYTEST := $(PY) -m pytest
COVER := --cov --cov-report=
AGAIN := $(MAKE) --no-print-directory
PACKAGES := rtpengine-daemon sip-tester baresip-core linphone-cli nftables iproute2 util-linux
CALLS ?= 20
RELAYS ?= 3
NODES ?= 2
DEEDS ?= 60
# What needs an API server alone, or network namespaces.
API_TESTS := $(patsubst %,tests/cluster/test_%.py,calls crds inventory kubectl_kedge leadership netns operator)
SOAK := tests/cluster/test_soak.py
CODE := operator tests demo benchmarks scripts

.DEFAULT_GOAL := help
.PHONY: help venv demo picture test lint types layers format crds crds-check chart chart-check images reference docs docs-check unit wire e2e \
	test-in-cluster test-beside test-with-audio \
	lab cluster-tests soak cluster cluster-down bench bench-failover bench-setup bench-rebalance lock packages clean

help: ## List the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## /\1\t/' | expand -t 16

venv: $(STAMP) ## Make the virtual environment with locked dependencies

$(STAMP): requirements/dev.lock pyproject.toml
	scripts/venv.sh $(VENV)
	@touch $@

# --- see it ---

demo: venv ## Kill, freeze, add and drain relays under real calls (CALLS=20 RELAYS=3)
	@scripts/apt-install.sh rtpengine-daemon
	@$(PY) -m demo --calls $(CALLS) --relays $(RELAYS)

picture: venv ## Make docs/demo.svg anew, from a real run of the demo
	@scripts/apt-install.sh rtpengine-daemon
	@$(PY) -m demo --svg docs/demo.svg

# --- check it ---

test: lab $(DOCS_STAMP) ## All of it: lint, types, layers, CRDs, docs, and every test; coverage is shown
	@rm -f .coverage .coverage.*
	@echo "Two jobs run at once now, some for a quarter of an hour; each prints what it has to say when it ends."
	$(AGAIN) --jobs=2 --output-sync=line test-in-cluster test-beside
	$(AGAIN) test-with-audio
	@$(VENV)/bin/coverage combine --quiet
	@$(VENV)/bin/coverage report

# A cluster's tests wait most of the time, for pods that start and nodes that time out: the others run beside them, and
# give way; those that need no nodes among them. Those that listen to audio come last, alone: a relay that gets no CPU for
# a third of a second counts as lost.
test-in-cluster: lab packages
	COVERAGE_FILE=.coverage.cluster $(PYTEST) $(COVER) tests/cluster $(addprefix --ignore=,$(API_TESTS) $(SOAK))

test-beside: lint types layers crds-check chart-check docs-check packages
	COVERAGE_FILE=.coverage.api $(PYTEST) $(COVER) $(API_TESTS)
	COVERAGE_FILE=.coverage.beside nice -n 19 $(PYTEST) $(COVER) tests/unit tests/kit tests/wire

test-with-audio: packages
	COVERAGE_FILE=.coverage.audio $(PYTEST) $(COVER) tests/e2e

lint: venv ## Check style and common mistakes (ruff)
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)

types: venv ## Check types (mypy --strict)
	$(VENV)/bin/mypy operator/kedge demo tests benchmarks scripts

layers: venv ## Check that imports point down only (import-linter)
	$(VENV)/bin/lint-imports --no-cache

format: venv ## Format the code and mend what ruff can
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

crds: venv ## Write crds/*.yaml from the models
	$(PY) -m kedge.api.crd crds

crds-check: venv ## Check that crds/*.yaml are what the models say
	$(PY) -m kedge.api.crd --check crds

chart: venv ## Write what in charts/ and manifests/ follows from other files
	$(PY) -m scripts.chart

chart-check: venv ## Check that charts/ and manifests/ are up to date
	$(PY) -m scripts.chart --check

images: ## Build the images (buildah, docker or podman; TAG=, BASE=, ARCHIVES=)
	scripts/images.sh

reference: venv ## Write the tables of docs/ from models and metrics
	$(PY) -m scripts.reference

# Not --quiet: mkdocs counts no warning then, and --strict passes them.
docs: $(DOCS_STAMP) ## Build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict

docs-check: docs venv ## Check it: strict build, links and headings, nothing loaded from elsewhere
	$(PY) -m scripts.site_check build/site
	$(PYTEST) -q tests/unit/test_links.py

$(DOCS_STAMP): requirements/docs.lock scripts/venv.sh
	scripts/venv.sh $(DOCS_VENV) docs
	@touch $@

unit: venv ## Unit tests: no network but loopback, no clock
	$(PYTEST) --cov --cov-report=term tests/unit

wire: packages ## Each SIP behaviour on the wire, with real rtpengine, SIPp, baresip and linphone
	$(PYTEST) tests/kit tests/wire

e2e: packages ## Relays killed, frozen and restarted under calls with audio
	$(PYTEST) tests/e2e

cluster-tests: lab ## Tests in a real Kubernetes with three nodes and rtpengine pods
	$(PYTEST) tests/cluster --ignore=$(SOAK)

soak: lab ## Do DEEDS=60 things to relays, in any order, under calls in a real Kubernetes
	KEDGE_SOAK=$(DEEDS) $(PYTEST) $(SOAK)

# Kubernetes and the images of the tests: built once into ~/.cache/kedge (minutes), or found by KUBEBUILDER_ASSETS.
lab: packages
	$(PY) -m tests.lab build

packages: venv
	@scripts/apt-install.sh $(PACKAGES)

# --- play and measure ---

cluster: lab ## Start a real Kubernetes to play with (NODES=2), and leave it running
	$(PY) -m tests.lab up --nodes $(NODES)

cluster-down: venv ## End what `make cluster` started
	$(PY) -m tests.lab down

bench: bench-failover bench-setup bench-rebalance ## Measure: a relay killed, calls set up, load spread over one more relay

bench-failover: packages
	$(PY) benchmarks/reanchor.py --calls 1000

bench-setup: packages
	$(PY) benchmarks/setup.py --rate 600 --seconds 60

bench-rebalance: packages
	@scripts/apt-install.sh tshark
	$(PY) benchmarks/rebalance.py

lock: venv ## Resolve the dependencies anew
	scripts/lock.sh

clean: ## Remove the virtual environments and caches
	rm -rf $(VENV) $(DOCS_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage build dist
