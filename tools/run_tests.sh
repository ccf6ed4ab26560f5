#!/usr/bin/env bash
# All checks, in an environment of their own (.venv/tests) with mmseg, mmdet and mmcv's compiled ops:
#
#     bash tools/run_tests.sh                     ruff, import contracts, types, then every test and doctest
#     bash tools/run_tests.sh ARGUMENTS           only pytest, with these arguments: -m 'not slow', tests/engine, -k resume
#     bash tools/run_tests.sh --stock tests/stock the test that builds an environment of the stock OpenMMLab family
#
# The first run compiles the ops (about 13 minutes on 2 cores) into ~/.cache/randsac_mm/wheels; later runs and other
# clones take them from there.
set -euo pipefail
# shellcheck source=tools/_env.sh
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

make_env "$ROOT/.venv/tests" tests
cd "$ROOT"
export PATH=$ROOT/.venv/tests/bin:$PATH
# Several busy torch processes on few cores slow each other down many times over.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} MKL_NUM_THREADS=${MKL_NUM_THREADS:-2}

(($# == 0)) || exec python -m pytest "$@"

failed=()
check() {
    say "== $*"
    "$@" || failed+=("$*")
}
check ruff check .
check ruff format --check .
check lint-imports
check mypy
check python -m pytest --durations=10
((${#failed[@]} == 0)) || die 'these checks did not pass:' "${failed[@]}"
