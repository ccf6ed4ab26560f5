"""Contract: a wrong key or value of a config or a command line ends a tool with one line that names it.

python -m pytest tests/reliability/test_wrong_options.py      # 3 minutes
"""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from processes import ROOT, run

from randsac_mm.engine import launch, tool

pytestmark = pytest.mark.slow
SMOKE = ROOT / 'configs' / 'smoke'

# By what the keys begin with: KEY=VALUE>WORD, the word being that of the message which names the key, or the right one.
WRONG = {
    'model.backbone.': '''
        img_sise=8>img_size arch.num_head=4>num_heads arch.embed_dim=64>embed_dims arch.num_heads=5>num_heads
        arch.num_heads=0>num_heads arch.num_layers=-2>num_layers arch.embed_dims=wide>embed_dims arch=hugee>arch
        drop_path_rate=1.5>drop_path_rate drop_path_rate=-0.1>drop_path_rate drop_path_rate=high>drop_path_rate
        patch_size=0>patch_size patch_size=3>patches patch_size=2.5>patch_size img_size=-8>img_size
        img_size=big>img_size frozen_stages=99>frozen_stages out_indices=9>out_indices in_channels=0>in_channels
        with_cp=perhaps>with_cp type=RandSACVit>RandSACViT positions=learned>positions
        init_cfg.type=StrictPretraind>StrictPretrained''',
    'model.': '''
        head.norm_pix=maybe>norm_pix head.norm_pix=1>norm_pix head.norm_pixel=true>norm_pix neck.num_layers=0>num_layers
        neck.num_layer=2>num_layers neck.skip=sometimes>skip neck.skip_init=middle>skip_init
        neck.embed_dims=63>embed_dims type=RandSCA>RandSAC attention=fastest>attention data_preprocessor.mean=(1,2)>mean
        data_preprocessor.std=(0,)>std data_preprocessor.to_rgb=yes>to_rgb''',
    'model.data_preprocessor.serialization.': '''
        partition.hierarchy=(4,16)>hierarchy partition.hierarchy=0>hierarchy partition.hierachy=4>hierarchy
        type=RandomSerialisation>RandomSerialization''',
    'train_dataloader.': '''
        batch_size=0>batch_size batch_size=-1>batch_size batch_size=1.5>batch_size batch_size=many>batch_size
        batchsize=8>batch_size num_workers=-1>num_workers num_workers=some>num_workers drop_lst=true>drop_last
        drop_last=1>drop_last collate_fn.type=defalt_collate>default_collate collate_fn=nothing>collate_fn
        sampler.type=DefaultSmapler>DefaultSampler sampler.shuffle=often>shuffle dataset.type=Digit>Digits
        dataset.splits=train>split persistent_workers=maybe>persistent_workers timeout=-3>timeout''',
    'train_cfg.': '''
        max_epochs=0>max_epochs max_epochs=-3>max_epochs max_epochs=2.5>max_epochs max_epochs=ten>max_epochs
        max_epochs=1,2>max_epochs max_epochs=nan>max_epochs max_epoch=3>max_epochs max_iters=3>max_epochs
        val_interval=0>val_interval val_begin=-1>val_begin type=EpochTrainLoop>EpochBasedTrainLoop''',
    '': '''
        max_epochs=3>train_cfg.max_epochs val_interval=3>val_interval batch_size=3>train_dataloader.batch_size
        lr=3>optim_wrapper.optimizer.lr param_scheduler=[{"type":"MultiStepLR","milestones":[9,3]}]>milestones
        default_hook.logger.interval=3>default_hooks custom_hooks=[{"type":"EMAHok"}]>EMAHook
        custom_hooks=[{"type":"EMAHook","momentum":"x"}]>EMAHook custom_hooks=[{"priority":"LOW"}]>type
        custom_hooks=[{"type":"EMAHook","priority":"LOWW"}]>priority randomnes.seed=1>randomness
        auto_scale_lr.base_batch_size=0>base_batch_size auto_scale_lr.enabled=true>enable log_level=LOUD>log_level
        log_processor.windw_size=3>window_size resume=perhaps>resume default_scope=foo>default_scope
        launcher=pytorch>launcher work_dir=>work_dir visualizer.type=UniversalVisualiser>UniversalVisualizer
        visualizer.vis_backends.0.type=LocalBackend>LocalVisBackend''',
    'optim_wrapper.optimizer.': '''
        lr=-1>lr lr=0>lr lr=nan>lr lr=inf>lr lr=fast>lr lr=true>lr learning_rate=1>lr betas=(0.9,)>betas
        betas=(0.9,1.5)>betas betas=0.9>betas weight_decay=-1>weight_decay weight_decy=1>weight_decay
        momentum=0.9>momentum fused=fast>fused type=AdamX>Adam type=SGD>betas''',
    'optim_wrapper.': '''
        optimzer.lr=1>optimizer accumulative_counts=0>accumulative_counts accumulative_count=2>accumulative_counts
        clip_grad.max_nrm=1>max_norm clip_grad.max_norm=-1>max_norm clip_grad=3>clip_grad type=OptimWraper>OptimWrapper
        constructor=LayerDecay>LayerDecay''',
    'optim_wrapper.paramwise_cfg.': '''
        norm_decay_mul=0>norm_decay_mult norm_decay_mult=none_at_all>norm_decay_mult decay_mult=0>decay_mult
        bypass_duplicate=3>bypass_duplicate custom_keys={"neck.skip.weight":{"decay_mul":0}}>decay_mult
        custom_keys={"neck.skip.weight":{"decay_mult":-1}}>decay_mult
        custom_keys={"neck.skp.weight":{"decay_mult":0}}>neck.skip.weight''',
    'param_scheduler.': '''
        0.start_factor=0>start_factor 0.start_factr=0.1>start_factor 0.by_epoch=sometimes>by_epoch
        0.type=LinearLr>LinearLR 1.T_max=0>T_max 1.t_max=9>T_max 1.T_max=long>T_max 1.begin=-1>begin 1.end=0>end
        9.T_max=1>9''',
    'default_hooks.': '''
        logger.interval=0>interval logger.intervall=8>interval checkpoint.interval=0>interval
        checkpoint.interval=often>interval checkpoint.max_keep_ckpts=0>max_keep_ckpts
        checkpoint.max_keep_ckpt=3>max_keep_ckpts chekpoint.interval=3>checkpoint chekpoint=None>checkpoint
        logger.type=LogerHook>LoggerHook''',
    'env_cfg.': '''
        cudnn_benchmak=true>cudnn_benchmark cudnn_benchmark=maybe>cudnn_benchmark
        mp_cfg.mp_start_method=forkk>mp_start_method mp_cfg.mp_start_methd=fork>mp_start_method
        mp_cfg.opencv_num_threads=-1>opencv_num_threads dist_cfg.backend=ncccl>backend dist_cfg.timeout=soon>timeout
        dist_cfg.backnd=nccl>backend''',
    'randomness.': '''
        seed=-1>seed seed=x>seed seed=1.5>seed sed=1>seed deterministic=2>deterministic''',
}  # fmt: skip
# The same of options that are right, several in one run.
RIGHT = (
    """model.backbone.drop_path_rate=0.1 model.backbone.with_cp=true model.backbone.frozen_stages=1
    model.backbone.out_indices=(1,2) model.backbone.img_size=(8,8) model.backbone.init_cfg=None""",
    """model.backbone.arch.num_layers=2 model.neck.num_layers=1 model.neck.skip=false model.neck.norm_position=post
    model.head.norm_pix=true model.attention=sdpa model.neck.feedforward_channels=None""",
    """model.data_preprocessor.serialization.partition.hierarchy=(16,4) model.data_preprocessor.mean=[0]
    model.data_preprocessor.std=(16.0,) model.data_preprocessor.non_blocking=False""",
    """train_dataloader.batch_size=7 train_dataloader.drop_last=true train_dataloader.timeout=0
    train_dataloader.persistent_workers=true train_dataloader.num_batch_per_epoch=2 train_dataloader.pin_memory=false
    train_dataloader.sampler.shuffle=false train_dataloader.sampler.seed=3 train_dataloader.prefetch_factor=2""",
    """train_cfg.max_epochs=1e1 train_cfg.val_interval=2 train_cfg.val_begin=1 randomness.seed=7
    randomness.deterministic=true randomness.diff_rank_seed=false auto_scale_lr.enable=true log_level=WARNING""",
    """optim_wrapper.optimizer.lr=1 optim_wrapper.optimizer.betas=[0.9,0.99] optim_wrapper.optimizer.weight_decay=0
    optim_wrapper.optimizer.eps=1e-6 optim_wrapper.optimizer.fused=None optim_wrapper.optimizer.foreach=true
    optim_wrapper.accumulative_counts=2 optim_wrapper.clip_grad.max_norm=1 optim_wrapper.clip_grad.norm_type=inf""",
    """optim_wrapper.optimizer={"_delete_":True,"type":"SGD","lr":0.1,"weight_decay":0,"momentum":0.9,"nesterov":True}
    optim_wrapper.paramwise_cfg.bias_lr_mult=2 optim_wrapper.paramwise_cfg.norm_decay_mult=0
    optim_wrapper.paramwise_cfg.custom_keys={"neck":{"lr_mult":2},"unknown":{"decay_mult":0}}""",
    """default_hooks.logger.interval=3 default_hooks.checkpoint.interval=-1 default_hooks.checkpoint.max_keep_ckpts=-1
    default_hooks.timer=None default_hooks.checkpoint.save_last=false
    custom_hooks=[{"type":"EMAHook","momentum":0.01,"priority":"LOW"},{"type":"ClassNumCheckHook","priority":49}]""",
    """env_cfg.cudnn_benchmark=true env_cfg.mp_cfg.mp_start_method=fork env_cfg.dist_cfg.backend=gloo
    env_cfg.dist_cfg.timeout=1800 env_cfg.resource_limit=4096 log_processor.window_size=3 default_scope=mmpretrain
    param_scheduler.0.start_factor=1 param_scheduler.1.eta_min=1e-6 param_scheduler.1.begin=0""",
)
# Settings of segmentation and detection, which only their own libraries read.
OTHERS = [
    ('mask-rcnn_vit_shapes', 'model.test_cfg.rcnn.score_th=0.1', 'score_thr'),
    ('mask-rcnn_vit_shapes', 'model.train_cfg.rpn.pos_weigt=1', 'pos_weight'),
    ('upernet_vit_shapes', 'model.test_cfg.crop_sze=(8,8)', 'crop_size'),
    ('upernet_vit_shapes', 'model.decode_head.num_classs=3', 'num_classes'),
    ('finetune_vit_digits', 'model.head.num_classes=0', 'num_classes'),
    ('finetune_vit_digits', 'val_evaluator.topk=many', 'topk'),
    ('finetune_vit_digits', 'val_cfg.interval=3', 'interval'),
]
TOOLS = [
    ('train.py', 'BAD.py', 'SyntaxError'), ('train.py', 'CONFIG --epochs 0', '--epochs 0'),
    ('train.py', 'CONFIG --epochs x', 2), ('train.py', 'CONFIG --work-dir BAD.py', 'work_dir'),
    ('evaluate.py', 'CONFIG none.pth --subset 0', 2), ('reproduce.py', '--table 10 --threads 0', 2),
    ('quickstart.py', '--epochs 1', 2), ('quickstart.py', '--epochs 2 --out BAD.py', 'BAD.py'),
    ('report.py', 'BAD.py --out r.html', 'BAD.py'), ('report.py', 'BAD.py --out r.html --num 0', 2),
    ('check_data.py', 'CONFIG --json .', 'empty name'), ('cache_images.py', 'none.py', 'none.py'),
    ('masks_to_coco.py', 'none none --out x.json', 'none'), ('export_backbone.py', 'none.pth --to mmm', 2),
    ('embed.py', 'none x.png --out f.npz', 'none'), ('embed.py', 'none x.png --out f.npz --batch-size 0', 2),
    ('visualization/serialization.py', '--out v --seed -1', 2),
    ('visualization/serialization.py', f'{SMOKE}/finetune_vit_digits.py --out v', 'serialization'),
]  # fmt: skip


def options_of(table):
    entries = [(prefix, *entry.rpartition('>')) for prefix in table for entry in table[prefix].split()]
    return [(prefix + option, named) for prefix, option, _, named in entries]


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A config without bases, which is read in milliseconds."""
    path = tmp_path_factory.mktemp('config') / 'digits.py'
    Config.fromfile(SMOKE / 'randsac_vit_digits.py').dump(path)
    return path


@pytest.fixture
def train(run_tool, tmp_path, monkeypatch):
    """Run tools/train.py up to the first step; return its error or None."""
    for loop in (EpochBasedTrainLoop, IterBasedTrainLoop):
        monkeypatch.setattr(loop, 'run', lambda self: None)

    def call(config, *options):
        options = (f'work_dir={tmp_path}/run', f'experiment_name={abs(hash(options))}', *options)
        deterministic = torch.are_deterministic_algorithms_enabled()
        try:
            run_tool('train.py', config, '--no-check', '--cfg-options', *options)
        except SystemExit as end:
            return str(end)
        finally:
            torch.use_deterministic_algorithms(deterministic)
        return None

    return call


def check_message(error, named):
    assert error is not None, 'accepted'
    assert error.startswith('train.py: error: ')
    assert len(error.splitlines()) <= 2
    assert re.search(rf'(?<!\w){re.escape(named)}\b', error), error


@pytest.mark.parametrize(('option', 'named'), options_of(WRONG))
def test_wrong_options_end_with_one_line(train, config, capsys, option, named):
    check_message(train(config, option), named)
    assert 'Traceback' not in ''.join(capsys.readouterr())


@pytest.mark.parametrize(('other', 'option', 'named'), OTHERS)
def test_wrong_options_of_other_libraries(train, other, option, named):
    check_message(train(SMOKE / f'{other}.py', option), named)


@pytest.mark.parametrize('options', RIGHT)
def test_right_options_are_accepted(train, config, options):
    assert train(config, *options.split()) is None


def test_without_the_checks_they_are_accepted_or_end_with_a_traceback(train, config, monkeypatch):
    monkeypatch.setattr(launch, 'check_keys', lambda cfg: None)
    monkeypatch.setattr(tool, '_builders', lambda error: [])
    for option in ('train_cfg.max_epochs=0', 'model.backbone.drop_path_rate=1.5', 'env_cfg.cudnn_benchmak=true'):
        assert train(config, option) is None
    with pytest.raises(TypeError):
        train(config, 'train_dataloader.batchsize=8')


@pytest.mark.parametrize('option', [option for option, _ in options_of(WRONG)][::30])
def test_in_a_process_of_its_own(config, tmp_path, option):
    command = ('python', ROOT / 'tools' / 'train.py', config, '--work-dir', tmp_path, '--no-check', '--cfg-options')
    text = run(*command, option, ok=False)
    assert text.splitlines()[-1].startswith('train.py: error: ')
    assert 'Traceback' not in text


@pytest.mark.parametrize(('script', 'arguments', 'named'), TOOLS)
def test_wrong_command_lines(run_tool, config, tmp_path, monkeypatch, script, arguments, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'BAD.py').write_text('model = dict(')
    with pytest.raises(SystemExit) as end:
        run_tool(script, *arguments.replace('CONFIG', str(config)).split())
    assert end.value.code == named or str(named) in str(end.value.code).partition(': error: ')[2]
