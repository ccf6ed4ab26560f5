"""Contract: a wrong key or value of a config ends training with one line that names it, before the first step.

python -m pytest tests/reliability/test_wrong_options.py
"""

import re

import pytest
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from processes import ROOT

SMOKE = ROOT / 'configs' / 'smoke'
LOADER, WRAPPER, HOOKS = 'train_dataloader', 'optim_wrapper', 'default_hooks'
BACKBONE, SERIALIZATION = 'model.backbone', 'model.data_preprocessor.serialization'
# Option, and a part of the message; "did you mean X" where the right key is known.
WRONG = [line.rsplit(' -> ') for line in f"""
{BACKBONE}.img_sise=8 -> img_size
{BACKBONE}.arch.num_head=4 -> num_heads
{BACKBONE}.arch.embed_dim=64 -> embed_dims
{BACKBONE}.arch.num_heads=5 -> num_heads
{BACKBONE}.arch.num_heads=0 -> num_heads
{BACKBONE}.arch.num_layers=-2 -> num_layers
{BACKBONE}.arch.embed_dims=wide -> embed_dims
{BACKBONE}.arch=hugee -> arch
{BACKBONE}.drop_path_rate=1.5 -> drop_path_rate
{BACKBONE}.drop_path_rate=-0.1 -> drop_path_rate
{BACKBONE}.drop_path_rate=high -> drop_path_rate
{BACKBONE}.patch_size=0 -> patch_size
{BACKBONE}.patch_size=3 -> patches
{BACKBONE}.patch_size=2.5 -> patch_size
{BACKBONE}.img_size=-8 -> img_size
{BACKBONE}.img_size=big -> img_size
{BACKBONE}.frozen_stages=99 -> frozen_stages
{BACKBONE}.out_indices=9 -> out_indices
{BACKBONE}.in_channels=0 -> in_channels
{BACKBONE}.with_cp=perhaps -> with_cp
{BACKBONE}.type=RandSACVit -> RandSACViT
{BACKBONE}.positions=learned -> positions
{BACKBONE}.init_cfg.type=StrictPretraind -> StrictPretrained
model.head.norm_pix=maybe -> norm_pix
model.head.norm_pix=1 -> norm_pix
model.head.norm_pixel=true -> norm_pix
model.neck.num_layers=0 -> num_layers
model.neck.num_layer=2 -> num_layers
model.neck.skip=sometimes -> skip
model.neck.skip_init=middle -> skip_init
model.neck.embed_dims=63 -> embed_dims
model.type=RandSCA -> RandSAC
model.attention=fastest -> attention
{SERIALIZATION}.partition.hierarchy=(4,16) -> hierarchy
{SERIALIZATION}.partition.hierarchy=0 -> hierarchy
{SERIALIZATION}.partition.hierachy=4 -> hierarchy
{SERIALIZATION}.type=RandomSerialisation -> RandomSerialization
model.data_preprocessor.mean=(1,2) -> mean
model.data_preprocessor.std=(0,) -> std
model.data_preprocessor.to_rgb=yes -> to_rgb
{LOADER}.batch_size=0 -> batch_size
{LOADER}.batch_size=-1 -> batch_size
{LOADER}.batch_size=1.5 -> batch_size
{LOADER}.batch_size=many -> batch_size
{LOADER}.batchsize=8 -> batch_size
{LOADER}.num_workers=-1 -> num_workers
{LOADER}.num_workers=some -> num_workers
{LOADER}.drop_lst=true -> drop_last
{LOADER}.drop_last=1 -> drop_last
{LOADER}.collate_fn.type=defalt_collate -> default_collate
{LOADER}.collate_fn=nothing -> collate_fn
{LOADER}.sampler.type=DefaultSmapler -> DefaultSampler
{LOADER}.sampler.shuffle=often -> shuffle
{LOADER}.dataset.type=Digit -> Digits
{LOADER}.dataset.splits=train -> split
{LOADER}.persistent_workers=maybe -> persistent_workers
{LOADER}.timeout=-3 -> timeout
train_cfg.max_epochs=0 -> max_epochs
train_cfg.max_epochs=-3 -> max_epochs
train_cfg.max_epochs=2.5 -> max_epochs
train_cfg.max_epochs=ten -> max_epochs
train_cfg.max_epochs=1,2 -> max_epochs
train_cfg.max_epochs=nan -> max_epochs
train_cfg.max_epoch=3 -> max_epochs
train_cfg.max_iters=3 -> max_epochs
train_cfg.val_interval=0 -> val_interval
train_cfg.val_begin=-1 -> val_begin
train_cfg.type=EpochTrainLoop -> EpochBasedTrainLoop
max_epochs=3 -> train_cfg.max_epochs
val_interval=3 -> val_interval
batch_size=3 -> train_dataloader.batch_size
lr=3 -> optim_wrapper.optimizer.lr
{WRAPPER}.optimizer.lr=-1 -> lr
{WRAPPER}.optimizer.lr=0 -> lr
{WRAPPER}.optimizer.lr=nan -> lr
{WRAPPER}.optimizer.lr=inf -> lr
{WRAPPER}.optimizer.lr=fast -> lr
{WRAPPER}.optimizer.lr=true -> lr
{WRAPPER}.optimizer.learning_rate=1 -> lr
{WRAPPER}.optimizer.betas=(0.9,) -> betas
{WRAPPER}.optimizer.betas=(0.9,1.5) -> betas
{WRAPPER}.optimizer.betas=0.9 -> betas
{WRAPPER}.optimizer.weight_decay=-1 -> weight_decay
{WRAPPER}.optimizer.weight_decy=1 -> weight_decay
{WRAPPER}.optimizer.momentum=0.9 -> momentum
{WRAPPER}.optimizer.fused=fast -> fused
{WRAPPER}.optimizer.type=AdamX -> Adam
{WRAPPER}.optimzer.lr=1 -> optimizer
{WRAPPER}.accumulative_counts=0 -> accumulative_counts
{WRAPPER}.accumulative_count=2 -> accumulative_counts
{WRAPPER}.clip_grad.max_nrm=1 -> max_norm
{WRAPPER}.clip_grad.max_norm=-1 -> max_norm
{WRAPPER}.clip_grad=3 -> clip_grad
{WRAPPER}.type=OptimWraper -> OptimWrapper
{WRAPPER}.paramwise_cfg.norm_decay_mul=0 -> norm_decay_mult
{WRAPPER}.paramwise_cfg.norm_decay_mult=none_at_all -> norm_decay_mult
{WRAPPER}.paramwise_cfg.decay_mult=0 -> decay_mult
{WRAPPER}.paramwise_cfg.bypass_duplicate=3 -> bypass_duplicate
{WRAPPER}.paramwise_cfg.custom_keys={{"neck.skip.weight":{{"decay_mul":0}}}} -> decay_mult
{WRAPPER}.paramwise_cfg.custom_keys={{"neck.skip.weight":{{"decay_mult":-1}}}} -> decay_mult
{WRAPPER}.paramwise_cfg.custom_keys={{"neck.skp.weight":{{"decay_mult":0}}}} -> neck.skip.weight
{WRAPPER}.constructor=LayerDecay -> LayerDecay
param_scheduler.0.start_factor=0 -> start_factor
param_scheduler.0.start_factr=0.1 -> start_factor
param_scheduler.0.by_epoch=sometimes -> by_epoch
param_scheduler.0.type=LinearLr -> LinearLR
param_scheduler.1.T_max=0 -> T_max
param_scheduler.1.t_max=9 -> T_max
param_scheduler.1.T_max=long -> T_max
param_scheduler.1.begin=-1 -> begin
param_scheduler.1.end=0 -> end
param_scheduler=[{{"type":"MultiStepLR","milestones":[9,3]}}] -> milestones
param_scheduler.9.T_max=1 -> 9
{HOOKS}.logger.interval=0 -> interval
{HOOKS}.logger.intervall=8 -> interval
{HOOKS}.checkpoint.interval=0 -> interval
{HOOKS}.checkpoint.interval=often -> interval
{HOOKS}.checkpoint.max_keep_ckpts=0 -> max_keep_ckpts
{HOOKS}.checkpoint.max_keep_ckpt=3 -> max_keep_ckpts
{HOOKS}.chekpoint.interval=3 -> checkpoint
{HOOKS}.chekpoint=None -> checkpoint
{HOOKS}.logger.type=LogerHook -> LoggerHook
default_hook.logger.interval=3 -> default_hooks
custom_hooks=[{{"type":"EMAHok"}}] -> EMAHook
custom_hooks=[{{"type":"EMAHook","momentum":"x"}}] -> EMAHook
custom_hooks=[{{"priority":"LOW"}}] -> type
custom_hooks=[{{"type":"EMAHook","priority":"LOWW"}}] -> priority
env_cfg.cudnn_benchmak=true -> cudnn_benchmark
env_cfg.cudnn_benchmark=maybe -> cudnn_benchmark
env_cfg.mp_cfg.mp_start_method=forkk -> mp_start_method
env_cfg.mp_cfg.mp_start_methd=fork -> mp_start_method
env_cfg.mp_cfg.opencv_num_threads=-1 -> opencv_num_threads
env_cfg.dist_cfg.backend=ncccl -> backend
env_cfg.dist_cfg.timeout=soon -> timeout
env_cfg.dist_cfg.backnd=nccl -> backend
randomness.seed=-1 -> seed
randomness.seed=x -> seed
randomness.seed=1.5 -> seed
randomness.sed=1 -> seed
randomness.deterministic=2 -> deterministic
randomnes.seed=1 -> randomness
auto_scale_lr.base_batch_size=0 -> base_batch_size
auto_scale_lr.enabled=true -> enable
log_level=LOUD -> log_level
log_processor.windw_size=3 -> window_size
resume=perhaps -> resume
default_scope=foo -> default_scope
launcher=pytorch -> launcher
work_dir= -> work_dir
visualizer.type=UniversalVisualiser -> UniversalVisualizer
visualizer.vis_backends.0.type=LocalBackend -> LocalVisBackend
""".strip().splitlines()]  # fmt: skip


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A config without bases, which is read in milliseconds."""
    path = tmp_path_factory.mktemp('config') / 'digits.py'
    Config.fromfile(SMOKE / 'randsac_vit_digits.py').dump(path)
    path.write_text(path.read_text() + '\nmax_epochs = 2\n')
    return path


@pytest.fixture
def train(run_tool, tmp_path, monkeypatch):
    """Run tools/train.py up to the first step; return its error or None."""
    for loop in (EpochBasedTrainLoop, IterBasedTrainLoop):
        monkeypatch.setattr(loop, 'run', lambda self: None)

    def call(config, *options):
        try:
            run_tool('train.py', config, '--no-check', '--cfg-options', f'work_dir={tmp_path}/run', *options)
        except SystemExit as end:
            return str(end)
        return None

    return call


@pytest.mark.parametrize(('option', 'named'), WRONG, ids=[option for option, _ in WRONG])
def test_wrong_options_end_with_one_line(train, config, capsys, option, named):
    error = train(config, f'experiment_name={abs(hash(option))}', option)
    assert error is not None, 'accepted'
    assert error.startswith('train.py: error: ')
    assert len(error.splitlines()) <= 2
    assert re.search(rf'\b{re.escape(named)}\b', error), error
    assert 'Traceback' not in ''.join(capsys.readouterr())
