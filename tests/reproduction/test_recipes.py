"""Contract: every row of the paper's tables is the config it should be, at the paper's size and at any other."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.complexity import count_executed
from randsac_mm.evaluation.frozen_encoder import build_untrained
from randsac_mm.reproduction import PROTOCOLS, load_tables, parse_protocol
from randsac_mm.reproduction.protocols import _set_size, apply_protocol
from randsac_mm.reproduction.recipes import RECIPES, SAME_COMPUTE, load_recipe

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TABLES = load_tables(CONFIGS / 'paper_tables.yml')
QUICK = ('patch-raster', 'shuffled-blob-3', 'two-stream', 'transformer-skip', 'mae-norm-pix', 'supervised')
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in sorted(RECIPES)]

# Typed from the paper a second time: partition, hierarchy or count, patch size, normalised pixels, skip connections.
SERIALIZATIONS = {
    'pixel-raster': ('Raster', 'Patch', None, 1, False, False),
    'patch-raster': ('Raster', 'Patch', None, 4, False, False),
    'patch-random': ('Random', 'Patch', None, 4, False, False),
    'patch-random-p8': ('Random', 'Patch', None, 8, False, False),
    'square-4': ('Random', 'Square', (4,), 4, False, False),
    'square-16': ('Random', 'Square', (16,), 4, False, False),
    'square-16-4': ('Random', 'Square', (16, 4), 4, False, False),
    'blob-7': ('Random', 'Blob', (7,), 4, False, False),
    'blob-7-3': ('Random', 'Blob', (7, 3), 4, False, False),
    'blob-16-4': ('Random', 'Blob', (16, 4), 4, False, False),
    'shuffled-blob-9': ('Random', 'Shuffled', (9,), 4, False, False),
    'patch-raster-norm-pix': ('Raster', 'Patch', None, 4, True, False),
    'square-16-norm-pix': ('Random', 'Square', (16,), 4, True, False),
    'transformer': ('Random', 'Blob', (11, 5), 4, True, False),
    'transformer-skip': ('Random', 'Blob', (11, 5), 4, True, True),
    'transformer-skip-no-norm': ('Random', 'Blob', (11, 5), 4, True, True),
    'cifar10-square': ('Random', 'Square', (16, 4), 4, True, True),
    'cifar100-blob': ('Random', 'Blob', (11, 5), 4, True, True),
}


@pytest.mark.parametrize('name', SERIALIZATIONS)
def test_recipe_is_the_papers_row(name: str) -> None:
    order, partition, hierarchy, patch_size, norm_pix, skip = SERIALIZATIONS[name]
    model = load_recipe(name, CONFIGS).model
    serialization = model.data_preprocessor.serialization
    assert serialization.type == f'{order}Serialization'
    assert serialization.partition.type == f'{partition}Partition'
    if hierarchy is not None:
        partition = serialization.partition.get('partition', serialization.partition)  # of shuffled blobs: the blobs
        assert tuple(partition.hierarchy) == hierarchy
    assert model.backbone.patch_size == patch_size
    assert model.head.norm_pix is norm_pix
    assert model.neck.skip is skip
    assert model.neck.get('memory_norm') == ('none' if name.endswith('no-norm') else None)


def test_every_row_has_a_recipe_or_says_why_not() -> None:
    for number, table in TABLES.items():
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names), number
        for row in table.rows:
            assert row.recipe in RECIPES or (row.recipe is None and row.note), (number, row.name)
        linear = {row.name: row.linear for row in table.rows}
        for worse, better in table.orders:  # the paper's own values agree, except where they are rows of ours
            assert linear[worse] is linear[better] is None or linear[worse] < linear[better], (number, worse)


def built(name: str, protocol: str) -> tuple[Config, torch.nn.Module]:
    cfg = load_recipe(name, CONFIGS)
    apply_protocol(cfg, PROTOCOLS[protocol], 50_000)
    init_default_scope('mmpretrain')
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize('name', NAMES)
def test_every_recipe_builds_small_with_sizes_that_fit(name: str) -> None:
    cfg, model = built(name, 'smoke')
    layers = 3 if name == 'two-stream' else 2  # the two-stream baseline has the decoder's parameters as well
    assert (model.backbone.embed_dims, len(model.backbone.layers)) == (16, layers)
    assert (cfg.max_epochs, cfg.train_dataloader.batch_size) == (1, 32)
    batch = {'inputs': torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}
    if cfg.model.type == 'ImageClassifier':
        assert model(model.data_preprocessor(batch)['inputs']).shape == (2, 100 if '100' in name else 10)
        return
    loss = model(**model.data_preprocessor(batch, True), mode='loss')['loss']
    loss.backward()
    assert loss.isfinite()


@pytest.mark.slow
def test_parameters_are_those_of_table_10() -> None:
    """5 M in the encoder, 2 M in the decoder, and in the two-stream baseline as many as in both together."""

    def million(part: torch.nn.Module) -> int:
        return round(sum(p.numel() for p in part.parameters() if p.requires_grad) / 1e6)

    names = ('two-stream', 'transformer', 'transformer-skip', 'mae-norm-pix')
    two, plain, one, mae = (built(name, 'paper')[1] for name in names)
    assert [million(model.backbone) for model in (two, plain, one, mae)] == [7, 5, 5, 5]
    assert million(plain.neck) == million(one.neck) == 2
    layers = [two.backbone.layers, one.backbone.layers, one.neck.layers]
    both, encoder, decoder = (sum(p.numel() for p in part.parameters()) for part in layers)
    assert abs(both - encoder - decoder) < both / len(two.backbone.layers) / 2
    cfg = load_recipe('two-stream', CONFIGS)
    _set_size(cfg.model, 384, 12, 6, 4)  # ViT-S of ImageNet-100: 30 M in Table 10
    assert cfg.model.backbone.arch.num_layers == 17
    assert round(17 * 12 * 384**2 / 1e6) == 30


@pytest.mark.slow
@pytest.mark.parametrize(('protocol', 'epochs'), [('smoke', 1), ('cpu', 2), ('paper', 1600)])
@pytest.mark.parametrize('name', SAME_COMPUTE)
def test_same_compute_is_more_epochs_for_as_many_multiply_adds(name: str, protocol: str, epochs: int) -> None:
    cfg, other = (load_recipe(recipe, CONFIGS) for recipe in (name, SAME_COMPUTE[name]))
    apply_protocol(cfg, PROTOCOLS[protocol], 50_000, other.model)
    work = [count_executed(build_untrained(model, 0)) for model in (cfg.model, other.model)]
    assert cfg.max_epochs * work[0] == pytest.approx(epochs * work[1], abs=work[0] / 2)
    assert cfg.max_epochs > epochs
    cosine = cfg.param_scheduler[-1]
    steps = 1 if cosine.by_epoch else PROTOCOLS[protocol].images // cfg.batch_size
    assert cosine.end == cfg.train_cfg.max_epochs * steps == cfg.max_epochs * steps


@pytest.mark.parametrize(('epochs', 'warmup'), [(1, 1), (2, 1), (13, 7)])
def test_schedule_is_counted_in_steps(epochs: int, warmup: int) -> None:
    cfg = load_recipe('patch-random', CONFIGS)
    apply_protocol(cfg, parse_protocol('cpu', epochs, 11 * 64, None)[0], 50_000)
    last = cfg.param_scheduler[-1]
    assert (last.type, last.begin, last.end) == ('CosineAnnealingLR', warmup, 11 * epochs)
    assert last.T_max == 11 * epochs - warmup
    assert not any(entry.by_epoch for entry in cfg.param_scheduler)
    assert len(cfg.param_scheduler) == (2 if warmup else 1)
    assert cfg.train_cfg.max_epochs == epochs


def test_changed_protocols_have_folders_of_their_own() -> None:
    assert parse_protocol('cpu', None, None, None) == (PROTOCOLS['cpu'], 'cpu')
    longer, other = parse_protocol('cpu', 5, 1000, 2)
    assert other == 'cpu-5e-1000'
    assert (longer.epochs, longer.images, longer.probe_images, longer.finetune_epochs) == (5, 1000, 1000, 2)
    assert '5 epochs, 1,000 images, 2 finetune epochs' in longer.what


@pytest.mark.parametrize(
    ('epochs', 'images', 'whole', 'message'),
    [(0, None, 50_000, '--epochs 0'), (None, 31, 50_000, '31 .* 32'), (None, 31, 30, '--subset 31 .* 30')],
)
def test_impossible_protocols(epochs: int | None, images: int | None, whole: int, message: str) -> None:
    protocol, _ = parse_protocol('smoke', epochs, images, None)
    with pytest.raises(ValueError, match=message):
        apply_protocol(load_recipe('patch-random', CONFIGS), protocol, whole)
