"""Contract: whatever the images, the rules build a model that trains; and docs/recipes.md shows the rules."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmpretrain.registry import MODELS

from randsac_mm.recipes import pretrain
from randsac_mm.recipes.look import Images, Labelled
from randsac_mm.recipes.rules import ARCHS, COUNTS, SIZES, decide

sides = st.integers(1, 4096)


def images_of(folder, side, count, grey):
    return Images(folder, count, 0, max(1, side // 2), side, side * 3, grey)


@settings(max_examples=12)
@given(sides, st.integers(2, 10**7), st.booleans(), st.sampled_from([None, *ARCHS]), st.booleans())
@example(28, 500, True, None, True)
@example(8, 2, False, None, False)
@example(1024, 10**7, False, 'vit-t', True)
def test_every_folder_gets_a_config_that_trains(tmp_path_factory, side, count, grey, arch, timed):
    """It loads as every tool loads it, the token grid has the segments, and the loader fills a batch."""
    folder = tmp_path_factory.mktemp('images')
    decision = decide(images_of(folder, side, count, grey), arch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, 'measure_pixels', lambda folder, channels: ([120.0] * channels, [60.0] * channels))
        probe = Labelled(folder, 'val', ('a', 'b')) if timed else None
        text = pretrain.write_config(images_of(folder, side, count, grey), decision, probe, 60.0 if timed else None)
    assert max(map(len, text.replace(str(folder), '').splitlines())) <= 120
    (folder / 'config.py').write_text(text)
    cfg = Config.fromfile(folder / 'config.py')
    assert cfg.work_dir == str(folder)
    assert 1 <= cfg.train_dataloader.batch_size <= max(1, count // 2)
    assert 0 < cfg.warmup_iters < cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end
    assert timed or cfg.train_cfg.max_iters >= decision.epochs
    assert [str(hook.type) for hook in cfg.custom_hooks] == ['OnlineProbeHook', 'TimeBudgetHook'] * timed
    cfg.model.backbone.arch = dict(embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=12)  # quick to build
    cfg.model.neck.update(num_layers=1, embed_dims=12, num_heads=2)
    model = MODELS.build(cfg.model)
    grid = model.backbone.patch_resolution
    assert model.backbone.img_size == (cfg.img_size,) * 2
    assert cfg.img_size <= max(8, side)  # never enlarged
    assert [n * cfg.patch_size for n in grid] == [cfg.img_size] * 2
    assert (model.backbone.in_channels, len(cfg.mean)) == (len(cfg.std), 1 if grey else 3)
    model.data_preprocessor.serialization.partition.check(grid)


def test_models_are_those_of_the_base_configs(tmp_path):
    built = {}
    for arch in (None, *ARCHS):
        decision = decide(images_of(tmp_path, 224 if arch else 8, 1000, False), arch)
        (tmp_path / 'config.py').write_text(
            pretrain.write_config(images_of(tmp_path, 8, 9, False), decision._replace(measured=False))
        )
        cfg = Config.fromfile(tmp_path / 'config.py')
        built[arch] = (
            MODELS.build(cfg.model).backbone.embed_dims,
            cfg.optim_wrapper.optimizer.lr * 256 / cfg.batch_size,
        )
    assert built == {None: (96, 1e-3), 'vit-t': (192, 1e-3), 'vit-s': (384, 1.5e-4), 'vit-b': (768, 2e-4)}


def test_the_documented_tables_are_the_rules(root):
    text = (root / 'docs' / 'recipes.md').read_text()
    for row, above in zip(SIZES, [*SIZES[1:], None], strict=True):
        name = {'SquarePartition': 'squares', 'BlobPartition': 'blobs'}[row.partition]
        span = f'{row.least} to {above.least - 1}' if above else f'{row.least} and more'
        grid, levels = row.image // row.patch, ', '.join(map(str, row.hierarchy))
        assert f'| {span} | {row.image} | {row.patch} | {grid} x {grid} | {name} {levels} | {row.crop} to 1 |\n' in text
    for row, above in zip(COUNTS, [*COUNTS[1:], None], strict=True):
        span = f'{row.least:,} to {above.least - 1:,}' if above else f'{row.least:,} and more'
        assert f'| {span} | {row.batch} | {row.epochs:,} | `{row.arch}` |\n' in text
    for name, arch in ARCHS.items():
        assert f'| `{name}` | `{arch.base}` | {arch.small_lr} | {arch.lr} |\n' in text
