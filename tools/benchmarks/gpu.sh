#!/usr/bin/env bash
# Everything that only a GPU can show, the important parts first, within 9 minutes.
#
#   bash tools/benchmarks/gpu.sh OUT              writes reports (JSON and Markdown) and gpu.log to the folder OUT
#   bash tools/benchmarks/gpu.sh OUT --rehearse   the same on a CPU with tiny models; the figures mean nothing
#
# Reports are renewed after every round. A machine without network needs build/gpu of tools/benchmarks/carry_wheels.sh.
set -uo pipefail
if [[ $# -lt 1 || $# -gt 2 || $1 == -* || ${2:---rehearse} != --rehearse ]]; then
    echo "usage: $0 OUT [--rehearse]" >&2
    exit 2
fi
mkdir -p "$1"
OUT=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${RANDSAC_PYTHON:-python3} LIMIT=520 LOG=$OUT/gpu.log
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
failed=()
if compgen -G 'build/gpu/*.whl' >/dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$WORK/site" build/gpu/*.whl || exit 1
    export PYTHONPATH=$WORK/site${PYTHONPATH:+:$PYTHONPATH} RANDSAC_COMMIT=${RANDSAC_COMMIT:-$(cat build/gpu/COMMIT)}
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=$WORK/inductor

# part NAME SECONDS SCRIPT OPTIONS...: runs it for at most that long, or as long as is left.
part() {
    local name=$1 seconds=$(($2 < LIMIT - SECONDS ? $2 : LIMIT - SECONDS))
    shift 2
    ((seconds >= 15)) || { failed+=("$name (no time)") && return; }
    echo "== $name, at $SECONDS s, for at most $seconds s" | tee -a "$LOG"
    timeout --kill-after=5 "$seconds" "$PYTHON" "tools/benchmarks/$1" --device "$DEVICE" --out "$OUT/gpu_$name" \
        "${@:2}" 2>&1 | tee -a "$LOG"
    ((PIPESTATUS[0] == 0)) || failed+=("$name (exit status ${PIPESTATUS[0]})")
}

if [[ $# == 2 ]]; then
    DEVICE=cpu
    part step 200 step.py --models tiny --variants eager eager:plain plain mae --rounds 2
    part data 100 data.py --batch-size 64 --rounds 2
else
    DEVICE=cuda
    step=(step.py --dtype bf16 --steps 5)
    main=(compiled eager plain plain-compiled mae-compiled)
    attention=(compiled compiled:plain compiled:triton eager eager:plain eager:triton)
    # Compiling hardly needs the GPU: all models at once, into the cache that all parts share.
    for model in vit-b_k9 vit-s vit-t; do
        part "compile_$model" 150 "${step[@]}" --rounds 0 --models $model --variants "${main[@]}" graphs &
    done
    wait
    part vit-b_k9 90 "${step[@]}" --models vit-b_k9 --variants "${main[@]}"
    for model in vit-s vit-t; do
        part $model 65 "${step[@]}" --models $model --variants graphs "${main[@]}"
    done
    # In a process of its own: a kernel that fails may take the device's context with it.
    part attention 90 "${step[@]}" --models vit-b_k9 --variants "${attention[@]}"
    part data 50 data.py
    part tokens 60 "${step[@]}" --models tokens-64 tokens-256 tokens-1024 --variants eager
    part vit-s_blob 60 "${step[@]}" --models vit-s_blob --variants eager+uncut eager compiled+uncut plain
fi
echo "ended after $SECONDS s" | tee -a "$LOG"
if ((${#failed[@]})); then
    printf '%s\n' "$0: error: incomplete:" "${failed[@]}" | tee -a "$LOG" >&2
    exit 1
fi
