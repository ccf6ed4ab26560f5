#!/usr/bin/env bash
# From a bare machine to a trained encoder, with one command:
#
#     bash tools/quickstart.sh [arguments of tools/quickstart.py]
#
# Needs Python 3.11 or 3.12 with pip and venv, a network for the first run, and 8 GB of disk. Makes .venv/quickstart in
# this clone (2 to 5 minutes, once) and runs tools/quickstart.py there.
set -euo pipefail
# shellcheck source=tools/_env.sh
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

make_env "$ROOT/.venv/quickstart" quickstart
exec "$ROOT/.venv/quickstart/bin/python" "$ROOT/tools/quickstart.py" "$@"
