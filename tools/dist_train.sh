#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes of a machine without a GPU.
#
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
#
# One machine with 8 GPUs:   bash tools/dist_train.sh configs/randsac/vit-b_in1k.py 8 --amp
# Two machines:              NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8   on the first
#                            NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8   on the second
# A job that lost a process is started again from its last checkpoint MAX_RESTARTS times (default 0).
# SIGTERM, SIGINT, SIGUSR1: finish the step, write a checkpoint, and exit with 143, 130 and 0.
# Two runs on one machine:   give each a PORT of its own (default 29500).
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
RANDSAC_MM_COMMAND="bash $(printf '%q ' "$0" "$@")"
export RANDSAC_MM_COMMAND  # to be named in the log, with --resume
CONFIG=$1 PROCESSES=$2
shift 2
# Without it every process would start as many threads as there are cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
meeting="--node_rank=${NODE_RANK:-0} --master_addr=$address --master_port=$port"
if [ "${MAX_RESTARTS:-0}" -gt 0 ]; then
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # otherwise the second start would meet addresses of the first
    meeting="--max-restarts=$MAX_RESTARTS --rdzv-backend=c10d --rdzv-endpoint=$address:$port"
    [ "${NNODES:-1}" -gt 1 ] || meeting="$meeting --local-addr=$address"
fi
# shellcheck disable=SC2086  # several options, by intention
python -m torch.distributed.run --nnodes="${NNODES:-1}" --nproc_per_node="$PROCESSES" $meeting \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@" &
launcher=$! status=''
# The launcher passes SIGTERM and SIGINT on, waits 30 s, and ends with 1; it knows no SIGUSR1.
trap 'status=143; kill -TERM $launcher' TERM
trap 'status=130; kill -INT $launcher' INT
trap 'kill -USR1 $(cat "/proc/$launcher/task/$launcher/children")' USR1
code=0
while kill -0 $launcher 2>/dev/null; do  # a signal ends a wait, not the training
    wait $launcher && code=0 || code=$?
done
exit "${status:-$code}"
