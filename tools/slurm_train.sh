#!/usr/bin/env bash
# Train on a slurm cluster.
#
#   [GPUS=16] [GPUS_PER_NODE=8] [CPUS_PER_TASK=8] [SRUN_ARGS="..."] [LAUNCHER=slurm|torchrun] \
#       bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# LAUNCHER=slurm (default): srun starts one task per GPU; mmengine's slurm launcher reads rank and address from slurm.
#   Set MASTER_PORT if several jobs share a node.
# LAUNCHER=torchrun: srun starts one task per node, and torchrun there starts one process per GPU. All nodes meet at
#   MASTER_ADDR (default: the first node of the job) and MASTER_PORT (default 29500). For clusters where one task per
#   GPU is not allowed, and for torchrun's own log files.
# --resume auto makes a job that slurm may requeue continue by itself:
#   GPUS=16 SRUN_ARGS="--requeue" bash tools/slurm_train.sh gpu randsac configs/randsac/vit-b_in1k.py work_dirs/b --resume auto
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
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
NODES=$((GPUS / GPUS_PER_NODE))
CPUS_PER_TASK=${CPUS_PER_TASK:-8}
LAUNCHER=${LAUNCHER:-slurm}
TRAIN=$(dirname "$0")/train.py
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# shellcheck disable=SC2206  # several arguments in one variable, by intention
SRUN=(srun -p "$PARTITION" --job-name="$JOB_NAME" --nodes="$NODES" --gres="gpu:$GPUS_PER_NODE" --kill-on-bad-exit=1
    ${SRUN_ARGS:-})

case $LAUNCHER in
slurm)
    exec "${SRUN[@]}" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK" \
        python -u "$TRAIN" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "$@"
    ;;
torchrun)
    # Each node looks up the address itself: only inside the job is the list of nodes known.
    # shellcheck disable=SC2016  # expanded on the node
    exec "${SRUN[@]}" --ntasks="$NODES" --ntasks-per-node=1 --cpus-per-task="$((CPUS_PER_TASK * GPUS_PER_NODE))" \
        bash -c 'exec python -u -m torch.distributed.run --nnodes="$SLURM_NNODES" --node_rank="$SLURM_NODEID" \
            --master_addr="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_NODELIST" | head -n 1)}" \
            --master_port="${MASTER_PORT:-29500}" --nproc_per_node="$0" "$@"' \
        "$GPUS_PER_NODE" "$TRAIN" "$CONFIG" --work-dir "$WORK_DIR" --launcher pytorch "$@"
    ;;
*)
    echo "$0: LAUNCHER=$LAUNCHER is unknown; choose slurm or torchrun" >&2
    exit 2
    ;;
esac
