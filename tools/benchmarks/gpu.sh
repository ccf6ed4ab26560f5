#!/usr/bin/env bash
# Everything that only a GPU can show, in one command that ends within 9 minutes.
#
#   bash tools/benchmarks/gpu.sh OUT                      writes OUT/gpu.tar.gz and OUT/gpu.log
#   bash tools/benchmarks/gpu.sh OUT --device cpu --smoke a rehearsal: tiny models, a few minutes, figures worth nothing
#
# On a machine without network, run tools/benchmarks/carry_wheels.sh before, where there is one, and take build/gpu along.
# Results are packed anew after each part, so that what is stopped loses only the part it was in. Afterwards:
#   tar -xzf OUT/gpu.tar.gz -C docs/results
set -uo pipefail
if [[ $# -lt 1 || $1 == -* ]]; then
    echo "usage: $0 OUT [--device cuda|cpu] [--smoke]" >&2
    exit 2
fi
OUT=$1
shift
DEVICE=cuda SMOKE='' LIMIT=520
while [[ $# -gt 0 ]]; do
    case $1 in
        --device) DEVICE=$2 && shift 2 ;;
        --smoke) SMOKE=yes && shift ;;
        *) echo "$0: error: unknown option $1" >&2 && exit 2 ;;
    esac
done
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${RANDSAC_PYTHON:-python3}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
RESULTS=$WORK/results
mkdir -p "$RESULTS"
LOG=$OUT/gpu.log
: >"$LOG"
failed=()

# A folder for Python to look in, not a virtual environment: those see no packages of the environment they are made in.
if compgen -G 'build/gpu/*.whl' >/dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" \
        build/gpu/*.whl 2>&1 | tee -a "$LOG"
    [[ ${PIPESTATUS[0]} == 0 ]] || exit 1
    export PYTHONPATH=$WORK/site
    # A copy of the clone has no history that could tell.
    git rev-parse HEAD >/dev/null 2>&1 || export RANDSAC_COMMIT=${RANDSAC_COMMIT:-$(cat build/gpu/COMMIT)}
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=$WORK/inductor
"$PYTHON" -c "import torch, mmengine, mmcv, mmpretrain, randsac_mm; torch.zeros(1, device='$DEVICE')" >>"$LOG" 2>&1 || {
    tail -n 5 "$LOG" >&2
    echo "$0: error: something is missing here; see tools/benchmarks/carry_wheels.sh" >&2
    exit 1
}

left() { echo $((LIMIT - SECONDS)); }

# part NAME SECONDS COMMAND...: runs it for at most that long, or as long as is left, and packs what there is.
part() {
    local name=$1 seconds=$2 status=0
    shift 2
    ((seconds <= $(left))) || seconds=$(left)
    if ((seconds < 15)); then
        failed+=("$name (no time)")
        return
    fi
    echo "== $name, at $SECONDS s, for at most $seconds s: $*" | tee -a "$LOG"
    timeout --kill-after=5 "$seconds" "$PYTHON" "$@" 2>&1 | tee -a "$LOG"
    status=${PIPESTATUS[0]}
    ((status == 0)) || failed+=("$name (exit status $status)")
    tar -czf "$OUT/gpu.tar.gz.draft" -C "$RESULTS" . && mv "$OUT/gpu.tar.gz.draft" "$OUT/gpu.tar.gz"
}

STEP=tools/benchmarks/step.py
to=(--device "$DEVICE" --out "$RESULTS")
data=(--device "$DEVICE" --json "$RESULTS/gpu_data.json")
if [[ -n $SMOKE ]]; then
    LIMIT=900
    step=("${to[@]}" --models tiny --rounds 5)
    part compile 200 $STEP "${step[@]}" --name gpu_compile --variants compiled plain-compiled --compile-only
    part step 300 $STEP "${step[@]}" --name gpu_step --variants plain plain-compiled mae eager compiled
    part attention-step 120 $STEP "${step[@]}" --name gpu_attention_step --variants eager eager:plain
    part attention 90 tools/benchmarks/attention.py "${to[@]}" --name gpu_attention --smoke
    part data 90 tools/benchmarks/data.py "${data[@]}" --images 512 --batches 1 --rounds 3 --jpegs 2
    part run 60 $STEP "${step[@]}" --name gpu_run --parts data run
    part scaling 90 tools/benchmarks/scaling.py "${to[@]}" --name gpu_scaling --axes segments --dims 32 --heads 2 --rounds 5
else
    main=(plain plain-compiled plain-sorted-compiled mae mae-compiled eager compiled)
    small=(plain plain-compiled mae-compiled eager compiled graphs)
    other=(compiled compiled:plain compiled:triton eager eager:plain eager:triton eager:flex)
    bf16=("${to[@]}" --dtype bf16)
    # Compiling keeps one core busy and the GPU hardly at all: all models at once, into the cache that all parts share.
    echo "== compile, at $SECONDS s" | tee -a "$LOG"
    pids=()
    for job in "vit-b_k9 ${main[*]}" "vit-s ${small[*]}" "vit-t ${small[*]}" "vit-b ${main[*]}"; do
        read -ra words <<<"$job"
        timeout --kill-after=5 150 "$PYTHON" $STEP "${bf16[@]}" --models "${words[0]}" --variants "${words[@]:1}" \
            --name "gpu_compile_${words[0]}" --compile-only >>"$LOG" 2>&1 &
        pids+=($!)
    done
    wait "${pids[@]}"
    part vit-b_k9 120 $STEP "${bf16[@]}" --name gpu_vit-b_k9 --models vit-b_k9 --variants "${main[@]}" --budget 45
    part vit-s 90 $STEP "${bf16[@]}" --name gpu_vit-s --models vit-s --variants "${small[@]}" --budget 35
    part vit-t 90 $STEP "${bf16[@]}" --name gpu_vit-t --models vit-t --variants "${small[@]}" --budget 35
    part attention 60 tools/benchmarks/attention.py "${bf16[@]}" --name gpu_attention --budget 40
    # In a process of its own: a kernel that fails may take the device's context with it.
    part attention-step 90 $STEP "${bf16[@]}" --name gpu_attention_step --models vit-b_k9 --variants "${other[@]}" --budget 45
    part scaling 60 tools/benchmarks/scaling.py "${bf16[@]}" --name gpu_scaling --axes tokens batch --rounds 5 --budget 20
    part data 60 tools/benchmarks/data.py "${data[@]}"
    part run 60 $STEP "${bf16[@]}" --name gpu_run --models vit-t --parts data run
    part vit-b 90 $STEP "${bf16[@]}" --name gpu_vit-b --models vit-b --variants "${main[@]}" --budget 35
    part blob 60 $STEP "${bf16[@]}" --name gpu_blob --models vit-s --segments blob --variants plain eager compiled --budget 25
fi
cat "$RESULTS"/*.md >"$OUT/gpu.md" 2>/dev/null
echo "ended after $SECONDS s; results: $OUT/gpu.tar.gz, $OUT/gpu.md" | tee -a "$LOG"
if ((${#failed[@]})); then
    printf '%s\n' "$0: error: incomplete:" "${failed[@]}" | tee -a "$LOG" >&2
    exit 1
fi
