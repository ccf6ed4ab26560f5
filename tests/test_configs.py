"""Every config builds and says how to run it; every pre-training recipe is the paper's.

The recipes are typed here a second time, from the paper's tables, not read from the configs.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.registry import TRANSFORMS
from modelindex.load_model_index import load

from randsac_mm.complexity import complexity

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != '_base_')
PRETRAIN = [path for path in CONFIGS if path.parent.name == 'randsac']
BESIDE = ('randsac_vit_photos', 'randsac_vit_cifar10', 'mae_vit-t_cifar10', 'supervised_vit-t_cifar10')


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
T_BLOB = ABLATION._replace(**BLOB, epochs=1600, norm_pix=True)
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
    'vit-t_skip_cifar10': T_BLOB._replace(skip=True),
    'vit-t_two-stream_cifar10': T_BLOB._replace(encoder=(16, 192, 3), decoder=None),
}


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@each(CONFIGS)
def test_config_builds_and_its_header_gives_command_cost_and_expectation(path: Path) -> None:
    cfg = Config.fromfile(path)
    with torch.device('meta'):  # no memory, no random numbers
        model = build(cfg)
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) > 0
    header = path.read_text().split('_base_')[0]
    command, cost = header.split('# Command:')[1].split('# Cost:')
    assert f'configs/{path.parent.name}/{path.name}' in command
    assert '# Expected:' in cost


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
    assert (cosine.type, cosine.begin, cosine.end) == ('CosineAnnealingLR', recipe.warmup, recipe.epochs)
    assert (cosine.T_max, cosine.eta_min) == (recipe.epochs - recipe.warmup, 0.0)
    assert warmup.convert_to_iter_based is cosine.convert_to_iter_based is True
    assert cfg.train_cfg.max_epochs == recipe.epochs
    steps = [*cfg.train_dataloader.dataset.get('pipeline', []), *(cfg.model.data_preprocessor.get('augment') or [])]
    (crop,) = (step for step in steps if 'RandomResizedCrop' in step.type)
    assert crop.get('flip_prob') == 0.5 or dict(type='RandomFlip', prob=0.5) in steps
    assert crop.scale == recipe.img_size
    assert crop.interpolation == 'bicubic'

    model = build(cfg)
    (crop,) = model.data_preprocessor.augment or [TRANSFORMS.build(crop)]
    assert (crop.crop_ratio_range, crop.aspect_ratio_range) == ((0.2, 1.0), (3 / 4, 4 / 3))
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


def test_every_paper_config_has_its_recipe_and_its_place_in_the_model_index() -> None:
    ours = {'vit_digits', 'vit-b_folder', 'vit-s_folder', 'vit-t_folder_small-images'}  # no table of the paper
    configs = {path.stem for path in PRETRAIN}
    assert configs == set(RECIPES) | ours
    index = load(str(ROOT / 'model-index.yml'))
    pretrained = {Path(model.config).stem for model in index.models if '/randsac/' in model.config}
    assert pretrained == configs
    assert {model.in_collection for model in index.models} == {collection.name for collection in index.collections}


@each([*PRETRAIN, *(path for path in CONFIGS if path.stem in BESIDE)])
def test_norms_biases_and_skip_weights_go_without_decay(path: Path) -> None:
    cfg = Config.fromfile(path)
    if 'vit-b' in path.stem:  # the same classes, less memory
        cfg.model.backbone.arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
        cfg.model.neck.update(embed_dims=24, num_heads=2)
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decay = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    for name, param in model.named_parameters():
        if param.requires_grad:
            assert decay[id(param)] == (0.0 if param.ndim == 1 or name == 'neck.skip.weight' else 0.05), name
        else:
            assert name in ('backbone.pos_embed', 'neck.decoder_pos_embed')


def test_pre_trained_smoke_backbones_fit_the_transfer_configs() -> None:
    names = (
        'randsac_vit_photos',
        'randsac_vit_enlarged-cifar10',
        'upernet_vit_ade20k-sample',
        'mask-rcnn_vit_tinycoco',
    )
    first, *others = (Config.fromfile(ROOT / 'configs' / 'smoke' / f'{name}.py').model.backbone for name in names)
    assert all((other.arch, other.patch_size) == (first.arch, first.patch_size) for other in others)
