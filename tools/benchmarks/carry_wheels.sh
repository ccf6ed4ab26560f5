#!/usr/bin/env bash
# Fetch what tools/benchmarks/gpu.sh needs and a machine without network lacks: OpenMMLab and its small dependencies.
#
#   bash tools/benchmarks/carry_wheels.sh [FOLDER]        default: build/gpu, which git ignores
#
# That machine has torch, torchvision, numpy, pillow, matplotlib, scikit-learn and OpenCV. Versions are those of
# requirements/constraints.txt. Every wheel is pure Python, so that one folder serves any Python from 3.10 on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
FOLDER=${1:-build/gpu}
PYTHON=${RANDSAC_PYTHON:-python}
MOST=$((60 * 1024 * 1024))  # bytes; what travels there in one go, the clone included, must stay below 64 MiB
NAMES=(
    onedl-mmengine onedl-mmpretrain
    addict yapf platformdirs termcolor              # mmengine and mmcv
    mat4py modelindex model-index ordered-set       # mmpretrain
    importlib-metadata zipp
)

pinned() {
    grep -m 1 "^$1==" requirements/constraints.txt || {
        echo "carry_wheels.sh: error: requirements/constraints.txt has no $1" >&2
        return 1
    }
}

rm -rf "$FOLDER"
mkdir -p "$FOLDER"
versions=()
for name in "${NAMES[@]}"; do
    versions+=("$(pinned "$name")")
done
pip=("$PYTHON" -m pip --disable-pip-version-check)
# A few are published as source only: `wheel` builds those, and fetches the others.
"${pip[@]}" wheel --quiet --no-deps --wheel-dir "$FOLDER" "${versions[@]}"
# Built where no torch is to be seen, mmcv leaves out its compiled ops. No cache: it might hold one with ops.
"${pip[@]}" wheel --quiet --no-deps --no-cache-dir --wheel-dir "$FOLDER" "$(pinned onedl-mmcv)"
for wheel in "$FOLDER"/*.whl; do
    [[ $wheel == *-none-any.whl ]] && continue
    if unzip -l "$wheel" | grep -q '\.so$'; then
        echo "carry_wheels.sh: error: $wheel holds compiled code and fits one Python only" >&2
        exit 1
    fi
    "$PYTHON" -m wheel tags --remove --python-tag py3 --abi-tag none --platform-tag any "$wheel" >/dev/null
done
{ git rev-parse --short HEAD && git status --porcelain | grep -q . && echo '+changes'; } 2>/dev/null |
    tr -d '\n' >"$FOLDER/COMMIT" || true
size=$(du -sb "$FOLDER" | cut -f 1)
if ((size > MOST)); then
    echo "carry_wheels.sh: error: $FOLDER has $size bytes, more than $MOST" >&2
    exit 1
fi
echo "$FOLDER: $(find "$FOLDER" -name '*.whl' | wc -l) wheels, $size bytes, commit $(cat "$FOLDER/COMMIT")"
