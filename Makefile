# Kedge's two commands are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv

help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

venv: $(STAMP) ## Make the virtual environment with locked dependencies

$(STAMP): requirements/dev.lock pyproject.toml
	scripts/venv.sh $(VENV)
	@touch $@
