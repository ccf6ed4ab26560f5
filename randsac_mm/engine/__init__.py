"""Training of any OpenMMLab model with exact resuming, bfloat16 on any device, compiled steps, CPU processes.

Private parts that this package replaces or relies on; look here when one of these is upgraded:

============================  ==========================================================================================
Here                          Of onedl-mmengine 0.10.12 and mmengine 0.10.7 (and torch 2.11 where named)
============================  ==========================================================================================
``checkpoint.py``             replaces ``CheckpointHook._save_checkpoint_with_step`` and the instance's
                              ``Runner.save_checkpoint``; wraps ``_save_best_checkpoint``; reads ``Runner._resume``
``fast_forward.py``           ``_InfiniteDataloaderIterator``: ``_dataloader``, ``_iterator``, ``_epoch``;
                              ``InfiniteSampler._indices_of_rank``; torch's ``_index_sampler`` and ``_next_index``
``deferred_log.py``           ``HistoryBuffer._log_history``, ``_count_history``; ``OptimWrapper.clip_func``
``schedule.py``               ``_ParamScheduler`` and the names in its state
``compile.py``                ``OptimWrapper._accumulative_counts``; torch's ``_dynamo`` counters
============================  ==========================================================================================
"""

from randsac_mm.engine.checkpoint import ResumableCheckpointHook
from randsac_mm.engine.compile import CompileHook, compile_model
from randsac_mm.engine.deferred_log import DeferredRuntimeInfoHook
from randsac_mm.engine.distributed import prepare_cpu_processes, replace_sync_bn
from randsac_mm.engine.optim import AutocastOptimWrapper
from randsac_mm.engine.random_state import seed_worker
from randsac_mm.engine.where_time_goes import WhereTimeGoesHook

__all__ = [
    'AutocastOptimWrapper',
    'CompileHook',
    'DeferredRuntimeInfoHook',
    'ResumableCheckpointHook',
    'WhereTimeGoesHook',
    'compile_model',
    'prepare_cpu_processes',
    'replace_sync_bn',
    'seed_worker',
]
