#!/usr/bin/env bash
# Fetch what tools/benchmarks/gpu.sh needs beside torch on a machine without network: OpenMMLab and its dependencies.
#
#   bash tools/benchmarks/carry_wheels.sh [FOLDER]        default: build/gpu, which git ignores
#
# Versions are those of requirements/constraints.txt. Every wheel is pure Python and serves any Python from 3.10 on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
FOLDER=${1:-build/gpu}
PYTHON=${RANDSAC_PYTHON:-python}
rm -rf "$FOLDER"
mkdir -p "$FOLDER"
wheel=("$PYTHON" -m pip --disable-pip-version-check wheel --quiet --no-deps -c requirements/constraints.txt -w "$FOLDER")
"${wheel[@]}" onedl-mmengine onedl-mmpretrain addict yapf platformdirs termcolor \
    mat4py modelindex model-index ordered-set importlib-metadata zipp
# Built where no torch is to be seen, mmcv leaves out its compiled ops. No cache: it might hold a wheel with ops.
"${wheel[@]}" --no-cache-dir onedl-mmcv
for file in "$FOLDER"/*.whl; do
    [[ $file != *-none-any.whl ]] || continue
    ! unzip -l "$file" | grep -q '\.so$' || { echo "$0: error: $file holds compiled code" >&2 && exit 1; }
    "$PYTHON" -m wheel tags --remove --python-tag py3 --abi-tag none --platform-tag any "$file" >/dev/null
done
git rev-parse --short HEAD >"$FOLDER/COMMIT"
echo "$FOLDER: $(find "$FOLDER" -name '*.whl' | wc -l) wheels, commit $(cat "$FOLDER/COMMIT")"
