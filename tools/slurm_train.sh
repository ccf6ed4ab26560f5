#!/usr/bin/env bash
# Train on a slurm cluster, with one task per GPU; mmengine's slurm launcher reads rank and address from slurm.
#
#   [GPUS=16] [GPUS_PER_NODE=8] [CPUS_PER_TASK=8] [SRUN_ARGS="..."] [MASTER_PORT=29500] \
#       bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# Several jobs that share a node need a MASTER_PORT each. A requeued job continues from its last checkpoint. For runs
# longer than the time limit, which write a checkpoint two minutes before it and are requeued, and for preemption:
#   sbatch --requeue --signal=B:USR1@120 --gpus=16 --wrap "bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR"
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
RANDSAC_MM_COMMAND="bash $(printf '%q ' "$0" "$@")"
export RANDSAC_MM_COMMAND  # to be named in the log, with --resume
PARTITION=$1 JOB_NAME=$2 CONFIG=$3 WORK_DIR=$4
shift 4
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
if [ "$GPUS" -lt "$GPUS_PER_NODE" ]; then
    GPUS_PER_NODE=$GPUS
fi
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "$0: GPUS=$GPUS is no multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 2
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# shellcheck disable=SC2086  # several arguments in SRUN_ARGS, by intention
srun -p "$PARTITION" --job-name="$JOB_NAME" --nodes=$((GPUS / GPUS_PER_NODE)) --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} python -u "$(dirname "$0")/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "$@" &
step=$! requeue=''
# srun passes signals on to all tasks, which write a checkpoint.
for name in TERM INT; do
    # shellcheck disable=SC2064  # the name of now
    trap "kill -$name $step" $name
done
trap 'requeue=yes; kill -USR1 $step' USR1
code=0
while kill -0 $step 2>/dev/null; do  # a signal ends a wait, not the training
    wait $step && code=0 || code=$?
done
if [ -n "$requeue" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
