"""Every config builds; every pre-training recipe is the paper's; every smoke config trains.

The recipes are typed here a second time, from the paper's tables, not read from the configs.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from modelindex.load_model_index import load

from randsac_mm.complexity import complexity
from randsac_mm.datasets import make_shapes
from randsac_mm.engine.launch import use_resume

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN = sorted((ROOT / 'configs' / 'randsac').glob('*.py'))
# Recipes: tests/test_downstream_configs.py; they run in tests/evaluation/test_linear_probe_and_finetune.py.
PROTOCOL_SMOKE = [ROOT / 'configs' / 'smoke' / f'{name}_vit_digits.py' for name in ('linear_probe', 'finetune')]
# Of pre-training; tests/segmentation and tests/detection have the others.
SMOKE = sorted(set((ROOT / 'configs' / 'smoke').glob('*_digits.py')) - set(PROTOCOL_SMOKE))


class Recipe(NamedTuple):
    base_lr: float
    batch: int
    betas: tuple[float, float]
    epochs: int
    warmup: int
    norm_pix: bool
    img_size: int
    hierarchy: int | tuple[int, ...]
    shape: str  # which partition
    encoder: tuple[int, int, int]  # layers, dims, heads
    decoder: tuple[int, int] | None  # layers, heads
    skip: bool


IN1K = Recipe(2e-4, 4096, (0.9, 0.95), 1600, 40, True, 192, (16, 4), 'Square', (12, 768, 12), (6, 12), True)
IN100 = Recipe(1.5e-4, 4096, (0.9, 0.95), 800, 40, True, 224, (16, 4), 'Blob', (12, 384, 6), (4, 12), True)
LOW_DATA = Recipe(1e-3, 512, (0.9, 0.999), 1600, 10, True, 32, (16, 4), 'Square', (12, 384, 6), (6, 6), True)
ABLATION = Recipe(1e-3, 512, (0.9, 0.999), 800, 10, False, 32, (16, 4), 'Square', (12, 192, 3), (3, 3), False)
BLOB = dict(hierarchy=(11, 5), shape='Blob')
RECIPES = {
    'vit-b_in1k': IN1K,
    'vit-b_k9_in1k': IN1K._replace(hierarchy=9),
    'vit-s_in100': IN100,
    'vit-s_square_in100': IN100._replace(shape='Square', img_size=192),
    'vit-s_cifar10': LOW_DATA,
    'vit-s_cifar100': LOW_DATA,
    'vit-s_blob_cifar10': LOW_DATA._replace(**BLOB),
    'vit-s_blob_cifar100': LOW_DATA._replace(**BLOB),
    'vit-t_cifar10': ABLATION,
    'vit-t_skip_cifar10': ABLATION._replace(**BLOB, epochs=1600, norm_pix=True, skip=True),
    'vit-t_two-stream_cifar10': ABLATION._replace(
        **BLOB, epochs=1600, norm_pix=True, encoder=(15, 192, 3), decoder=None
    ),
}


def stems(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_is_the_papers(name: str) -> None:
    recipe = RECIPES[name]
    cfg = Config.fromfile(ROOT / 'configs' / 'randsac' / f'{name}.py')
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW'
    assert optimizer.lr == pytest.approx(recipe.base_lr * recipe.batch / 256)
    assert optimizer.weight_decay == 0.05
    assert tuple(optimizer.betas) == recipe.betas
    assert cfg.optim_wrapper.get('clip_grad') is None
    assert cfg.auto_scale_lr.base_batch_size == recipe.batch
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end) == ('LinearLR', 0, recipe.warmup)
    assert (cosine.type, cosine.begin, cosine.end, cosine.T_max, cosine.eta_min) == (
        'CosineAnnealingLR',
        recipe.warmup,
        recipe.epochs,
        recipe.epochs - recipe.warmup,
        0.0,
    )
    assert warmup.convert_to_iter_based
    assert cosine.convert_to_iter_based
    assert cfg.train_cfg.max_epochs == recipe.epochs
    steps = [*cfg.train_dataloader.dataset.get('pipeline', []), *(cfg.model.data_preprocessor.get('augment') or [])]
    (crop,) = (step for step in steps if 'RandomResizedCrop' in step.type)
    assert crop.get('flip_prob') == 0.5 or dict(type='RandomFlip', prob=0.5) in steps
    assert crop.scale == recipe.img_size
    assert (crop.crop_ratio_range, crop.aspect_ratio_range) == ((0.2, 1.0), (3 / 4, 4 / 3))
    assert crop.interpolation == 'bicubic'

    model = build(cfg)
    partition = model.data_preprocessor.serialization.partition
    expected = recipe.hierarchy if isinstance(recipe.hierarchy, tuple) else (recipe.hierarchy,)
    assert (type(partition).__name__, partition.hierarchy) == (f'{recipe.shape}Partition', expected)
    assert model.head.norm_pix is recipe.norm_pix
    assert model.backbone.img_size == (recipe.img_size,) * 2
    layer = model.backbone.layers[0]
    assert (model.backbone.num_layers, model.backbone.embed_dims, layer.attn.num_heads) == recipe.encoder
    if recipe.decoder is None:
        assert model.neck is None
    else:
        assert (model.neck.num_layers, model.neck.layers[0].self_attn.num_heads) == recipe.decoder
        assert model.neck.embed_dims == model.backbone.embed_dims
        assert (model.neck.skip is not None) is recipe.skip
    assert all(module.drop_prob == 0 for module in model.modules() if type(module).__name__ == 'DropPath')

    listed = next(entry for entry in load(str(ROOT / 'model-index.yml')).models if Path(entry.config).stem == name)
    total = complexity(model)['total']
    assert (listed.metadata.parameters, listed.metadata.flops) == (total[0], total[1])


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model)


def test_every_paper_config_has_its_recipe() -> None:
    ours = {'vit_digits', 'vit-b_folder'}  # no table of the paper
    assert set(stems(PRETRAIN)) == set(RECIPES) | ours


PROTOCOLS = sorted(path for name in ('linear_probe', 'finetune') for path in (ROOT / 'configs' / name).glob('*.py'))
WITH_HEADER = PRETRAIN + PROTOCOLS + SMOKE + PROTOCOL_SMOKE


@pytest.mark.parametrize('path', WITH_HEADER, ids=stems(WITH_HEADER))
def test_header_gives_command_cost_and_expectation(path: Path) -> None:
    header = path.read_text().split('_base_')[0]
    assert all(word in header for word in ('# Command:', '# Cost:', '# Expected:'))
    command = header.split('# Command:')[1].split('# Cost:')[0]
    assert f'{path.parent.name}/{path.name}' in command
    assert '@' not in header


@pytest.mark.parametrize('path', PRETRAIN, ids=stems(PRETRAIN))
def test_everything_but_matrices_goes_without_decay(path: Path) -> None:
    cfg = Config.fromfile(path)
    if 'vit-b' in path.stem:  # the same classes, less memory
        cfg.model.backbone.arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
        cfg.model.neck.update(embed_dims=24, num_heads=2, encoder_dims=24, encoder_layers=2)
        cfg.model.head.embed_dims = 24
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decay = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert decay[id(param)] == (0.05 if param.ndim > 1 else 0.0), name
        else:
            assert name == 'backbone.pos_embed'


@pytest.mark.slow
@pytest.mark.parametrize('path', SMOKE, ids=stems(SMOKE))
def test_smoke_config_trains(path: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = path.stem
    runner = Runner.from_cfg(cfg)
    before = [p.clone() for p in runner.model.parameters() if p.requires_grad]
    runner.train()
    after = [p for p in runner.model.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(torch.isfinite(p).all() for p in after)
    assert runner.message_hub.get_scalar('train/loss').current() > 0
    assert list(tmp_path.glob('epoch_2.pth'))


PHOTOS, CIFAR = (ROOT / 'configs' / 'smoke' / f'randsac_vit_{name}.py' for name in ('photos', 'enlarged-cifar10'))


@pytest.mark.parametrize('path', [PHOTOS, CIFAR], ids=stems([PHOTOS, CIFAR]))
def test_pre_trained_smoke_backbone_fits_the_transfer_configs(path: Path) -> None:
    test_header_gives_command_cost_and_expectation(path)
    backbone = Config.fromfile(path).model.backbone
    for name in ('upernet_vit_ade20k-sample', 'mask-rcnn_vit_tinycoco'):
        theirs = Config.fromfile(path.with_stem(name)).model.backbone
        assert (theirs.arch, theirs.patch_size) == (backbone.arch, backbone.patch_size), name


@pytest.mark.slow
def test_photos_smoke_config_trains_on_any_folder(tmp_path: Path) -> None:
    make_shapes(tmp_path / 'shapes', images=4, val=1, size=(64, 80), seed=0)
    cfg = Config.fromfile(PHOTOS)
    cfg.train_dataloader.batch_size = 4
    cfg.train_dataloader.dataset.times = 2
    cfg.train_dataloader.dataset.dataset.data_root = str(tmp_path / 'shapes' / 'coco' / 'train2017')
    cfg.max_epochs = cfg.train_cfg.max_epochs = 1
    cfg.param_scheduler = None
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'run'), 'photos'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert runner.message_hub.get_scalar('train/loss').current() > 0


class Stop(Hook):
    """Interrupts a run in its second epoch."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if runner.epoch == 1 and batch_idx == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize('name', ['randsac_vit_digits', 'randsac_vit_blob_digits'])
def test_interrupted_and_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def runner(work_dir: str) -> Runner:
        cfg = Config.fromfile(ROOT / 'configs' / 'smoke' / f'{name}.py')
        cfg.work_dir, cfg.experiment_name = str(tmp_path / work_dir), f'{name}_{work_dir}'
        if (tmp_path / work_dir).exists():
            cfg.experiment_name += '_resumed'
            use_resume(cfg, 'latest')
        return Runner.from_cfg(cfg)

    whole = runner('whole').train()
    stopped = runner('parts')
    stopped.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert not (tmp_path / 'parts' / 'epoch_2.pth').exists()
    resumed = runner('parts').train()
    for (key, expected), value in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, value), key


def test_model_index_lists_every_config() -> None:
    index = load(str(ROOT / 'model-index.yml'))
    listed = {Path(model.config).stem for model in index.models}
    assert listed == set(stems(PRETRAIN))
    assert all((ROOT / model.config).is_file() for model in index.models)
    assert {model.in_collection for model in index.models} == {collection.name for collection in index.collections}
