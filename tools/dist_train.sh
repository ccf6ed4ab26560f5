#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes of a machine without a GPU.
#
#   bash tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
#
# One machine with 8 GPUs:   bash tools/dist_train.sh configs/randsac/vit-b_in1k.py 8 --amp
# Two machines:              NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8   on the first
#                            NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 bash tools/dist_train.sh CONFIG 8   on the second
# Two runs on one machine:   give each a PORT of its own (default 29500).
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1 PROCESSES=$2
shift 2
# Without it every process would start as many threads as there are cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python -m torch.distributed.run --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$PROCESSES" \
    "$(dirname "$0")/train.py" "$CONFIG" --launcher pytorch "$@"
