"""What the training of any OpenMMLab model gains from us: exact resuming, bfloat16 anywhere, CPU processes."""

from randsac_mm.engine.checkpoint import ResumableCheckpointHook
from randsac_mm.engine.distributed import prepare_cpu_processes
from randsac_mm.engine.optim import AutocastOptimWrapper
from randsac_mm.engine.workers import seed_worker

__all__ = ['AutocastOptimWrapper', 'ResumableCheckpointHook', 'prepare_cpu_processes', 'seed_worker']
