# What every pre-training run has in common.
default_scope = 'mmpretrain'
# Registers our types, whoever runs this config: our tools or another OpenMMLab project's.
custom_imports = dict(imports=['randsac_mm'], allow_failed_imports=False)

default_hooks = dict(
    # As mmengine's own hook, but the device need not wait for the log: losses are fetched when a line is due.
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    # Shares of data, launch and compute, and images per second, in each line of the log.
    where_time_goes=dict(type='WhereTimeGoesHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Keeps the random state of every process: a resumed run ends with the weights of an uninterrupted one.
    checkpoint=dict(type='ResumableCheckpointHook', interval=1, max_keep_ckpts=3),
    # A step whose loss or gradients are not finite does not change the weights.
    skip_non_finite=dict(type='SkipNonFiniteHook'),
    # SIGTERM, SIGINT and SIGUSR1 end a run after the step, with a checkpoint.
    stop_on_signal=dict(type='StopOnSignalHook'),
    # Another order of images in every epoch; without it, distributed runs repeat the first one.
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Draws by image and pass: the same for any number of processes and workers with the same total batch.
    sample_seeds=dict(type='SampleSeedHook'),
)
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, diff_rank_seed=True)
