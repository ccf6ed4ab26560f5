#!/usr/bin/env bash
# All checks, in an environment of their own (.venv/tests) with mmseg, mmdet and mmcv's compiled ops:
#
#     bash tools/run_tests.sh                     ruff, import contracts, types, documentation, then every test and doctest
#     bash tools/run_tests.sh ARGUMENTS           only pytest, with these arguments: -m 'not slow', tests/engine, -k resume
#     bash tools/run_tests.sh --stock tests/stock the test that builds an environment of the stock OpenMMLab family
#
# The first run compiles the ops (about 13 minutes on 2 cores) into ~/.cache/randsac_mm/wheels.
set -euo pipefail
# shellcheck source=tools/_env.sh
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"

make_env "$ROOT/.venv/tests" tests
cd "$ROOT"
export PATH=$ROOT/.venv/tests/bin:$PATH
# Two processes of one thread each: most tests are too small for two threads, and spinning ones slow others down.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MKL_NUM_THREADS=${MKL_NUM_THREADS:-1} GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
pytest='python -m pytest -n 2 --dist worksteal'

# shellcheck disable=SC2086  # several words, by intention
(($# == 0)) || exec $pytest "$@"

failed=()
# -E reads every page anew: one that is taken from the last build would hide its warnings.
docs='sphinx-build -W --keep-going -q -E -b html docs docs/_build'
for check in 'ruff check .' 'ruff format --check .' lint-imports mypy "$docs" "$pytest --durations=10"; do
    say "== $check"
    # shellcheck disable=SC2086  # several words, by intention
    $check || failed+=("$check")
done
((${#failed[@]} == 0)) || die 'these checks did not pass:' "${failed[@]}"
