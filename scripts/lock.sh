#!/usr/bin/env bash
# Resolve the dependencies anew into requirements/*.lock (hashes, no index addresses).
set -euo pipefail
cd "$(dirname "$0")/.."
uv() { "${VENV:-.venv}/bin/python" -m uv "$@"; }
"${VENV:-.venv}/bin/pip" install --quiet uv
# --no-strip-extras: without it pip before 24.1 takes a newer release for `coverage[toml]` than the one locked.
common=(pip compile --quiet --generate-hashes --no-strip-extras --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock")
uv "${common[@]}" pyproject.toml -o requirements/runtime.lock "$@"
uv "${common[@]}" pyproject.toml --group dev -o requirements/dev.lock "$@"
uv "${common[@]}" --group docs -o requirements/docs.lock "$@"
