"""What the training of any OpenMMLab model gains from us: exact resuming, bfloat16 anywhere, CPU processes."""

from randsac_mm.engine.batch_norm import replace_sync_bn
from randsac_mm.engine.checkpoint import ResumableCheckpointHook
from randsac_mm.engine.distributed import prepare_cpu_processes
from randsac_mm.engine.optim import AutocastOptimWrapper
from randsac_mm.engine.workers import seed_worker

__all__ = ['AutocastOptimWrapper', 'ResumableCheckpointHook', 'prepare_cpu_processes', 'replace_sync_bn', 'seed_worker']
