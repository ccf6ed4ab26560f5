#!/usr/bin/env bash
# Everything that only a GPU can show, in the order of its worth; a report is renewed whenever a figure is known.
#
#   bash tools/benchmarks/gpu.sh OUT                           writes reports (JSON and Markdown) and gpu.log to OUT
#   bash tools/benchmarks/gpu.sh OUT --seconds 300             ends after so many seconds (default: 500)
#   bash tools/benchmarks/gpu.sh OUT --device cpu --smoke      tiny models, which show only that each part runs
#
# A machine without network needs build/gpu of tools/benchmarks/carry_wheels.sh.
set -uo pipefail
usage() { echo "usage: $0 OUT [--device cuda|cpu] [--smoke] [--seconds N]" >&2 && exit 2; }
(($# > 0)) && [[ $1 != -* ]] || usage
OUT=$1 DEVICE=cuda SMOKE='' LIMIT=500
shift
while (($#)); do
    case $1 in
        --device) [[ ${2:-} == cuda || ${2:-} == cpu ]] || usage; DEVICE=$2; shift ;;
        --seconds) [[ ${2:-} =~ ^[0-9]+$ ]] || usage; LIMIT=$2; shift ;;
        --smoke) SMOKE=1 ;;
        *) usage ;;
    esac
    shift
done
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${RANDSAC_PYTHON:-python3} LOG=$OUT/gpu.log
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

# step NAME SECONDS MODELS VARIANTS: times the variants of the models, and the kernels of each by kind.
step() {
    local options=(--dtype bf16 --steps 5) model=$3 variants=$4
    # Compiling takes minutes on a CPU; Triton and graphs are for GPUs.
    [[ -z $SMOKE ]] || options=(--rounds 1) model=tiny variants='eager eager:plain'
    # shellcheck disable=SC2086  # several words, by intention
    part "$1" "$2" step.py "${options[@]}" --kinds --models "$model" --variants $variants
}

# In processes of their own: a kernel that fails may take the device's context with it.
step vit-b_k9 150 vit-b_k9 'units whole eager'
step vit-b_k9_triton 60 vit-b_k9 'compiled compiled:triton'
step vit-s 60 vit-s 'compiled graphs'
step vit-t 60 vit-t 'compiled graphs'
step vit-b_k9_others 120 vit-b_k9 'compiled plain-compiled mae-compiled plain mae'
part data 50 data.py ${SMOKE:+--rounds 2 --batch-size 64}
step vit-s_blob 60 vit-s_blob 'compiled compiled+uncut eager'
step vit-s_others 90 vit-s 'graphs plain-compiled mae-compiled'
step vit-t_others 90 vit-t 'graphs plain-compiled mae-compiled'
echo "ended after $SECONDS s" | tee -a "$LOG"
if ((${#failed[@]})); then
    printf '%s\n' "$0: error: incomplete:" "${failed[@]}" | tee -a "$LOG" >&2
    exit 1
fi
