#!/usr/bin/env bash
# Make a virtual environment: the locked, hash-checked dependencies of a group, and with `dev` Kedge itself, editable.
# usage: venv.sh FOLDER [dev|docs]
set -euo pipefail
folder=$1 group=${2:-dev}
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "kedge needs Python 3.11 or newer; $("$python" --version) is too old. Set PYTHON=/path/to/python3." >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$(dirname "$0")/apt-install.sh" python3-venv
fi
"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "requirements/$group.lock"
[[ $group != dev ]] || "$folder/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
