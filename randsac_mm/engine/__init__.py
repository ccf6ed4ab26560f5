"""Training of any OpenMMLab model with exact resuming, bfloat16, compiled steps, CPU processes.

Private parts of onedl-mmengine 0.10.12, mmengine 0.10.7 and torch 2.11 that it replaces or reads; check on upgrades:

* ``checkpoint.py``: ``CheckpointHook._save_checkpoint_with_step`` and ``_save_best_checkpoint``; ``Runner._resume``
* ``resume_check.py``: ``_hooks`` and ``_resume`` of both runners
* ``fast_forward.py``: ``_InfiniteDataloaderIterator._dataloader``, ``_iterator`` and ``_epoch``;
  ``InfiniteSampler._indices_of_rank``; torch's ``DataLoader._index_sampler``, ``_next_index`` of its iterator
* ``non_finite.py``: ``_with_counter`` and ``_global_step`` of mmengine's schedulers; ``found_inf`` and
  ``_step_supports_amp_scaling`` of torch's optimisers, ``torch._foreach_norm``
* ``deferred_log.py``: ``HistoryBuffer._log_history`` and ``_count_history``; ``OptimWrapper.clip_func``
* ``launch.py``: ``_log_env`` of both runners, ``_auto_scale_lr`` of strategies
* ``schedule.py``: ``_ParamScheduler``, ``_build_param_scheduler`` of runner and strategies
* ``sample_seeds.py``: ``InfiniteSampler._infinite_indices`` and ``_indices_of_rank``; ``DataLoader.__setattr__``
* ``time_budget.py``: ``IterBasedTrainLoop._max_iters``
* ``compile.py``: ``OptimWrapper._accumulative_counts``, torch's ``_dynamo``
* ``optim.py``: torch's operator ``mkldnn::_is_mkldnn_bf16_supported``
"""

from randsac_mm.engine.checkpoint import ResumableCheckpointHook
from randsac_mm.engine.compile import CompileHook, compile_model
from randsac_mm.engine.deferred_log import DeferredRuntimeInfoHook
from randsac_mm.engine.distributed import prepare_cpu_processes, replace_sync_bn
from randsac_mm.engine.mask_logits import SmallMaskLogitsHook
from randsac_mm.engine.non_finite import SkipNonFiniteHook
from randsac_mm.engine.optim import AutocastOptimWrapper
from randsac_mm.engine.random_state import seed_worker
from randsac_mm.engine.sample_seeds import SampleSeedHook
from randsac_mm.engine.signals import StopOnSignalHook
from randsac_mm.engine.time_budget import TimeBudgetHook
from randsac_mm.engine.where_time_goes import WhereTimeGoesHook

__all__ = [
    'AutocastOptimWrapper',
    'CompileHook',
    'DeferredRuntimeInfoHook',
    'ResumableCheckpointHook',
    'SampleSeedHook',
    'SkipNonFiniteHook',
    'SmallMaskLogitsHook',
    'StopOnSignalHook',
    'TimeBudgetHook',
    'WhereTimeGoesHook',
    'compile_model',
    'prepare_cpu_processes',
    'replace_sync_bn',
    'seed_worker',
]
