"""From a folder and a pre-training to a config: it fits the encoder and the data, trains, and any tool can run it."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from PIL import Image
from recipes.pretrained_runs import KINDS, make_run

from randsac_mm.engine.launch import check_data, load_config
from randsac_mm.recipes import downstream
from randsac_mm.recipes.classify import make_classification
from randsac_mm.recipes.detect import choose_anchor_scale, make_detection
from randsac_mm.recipes.downstream import RULES, Recipe, choose_length, choose_side, fill_config
from randsac_mm.recipes.segment import FOLDERS, SPLITS, make_segmentation

NAMES = {'wall': 1, 'sky': 3, 'grass': 10, 'box': 42, 'tent': 115, 'ball': 120}  # of the generated pictures

pytestmark = pytest.mark.filterwarnings(
    'ignore:.* instance named', 'ignore:This DataLoader will create', 'ignore:Default ``avg_non_ignore``'
)


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: str(make_run(tmp_path_factory.mktemp(kind), kind)) for kind in KINDS}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Ten images in class folders, of prime sizes."""
    for number in range(10):
        path = tmp_path / 'labelled' / ('cat', 'dog')[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (37, 53, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / 'labelled'


def annotations(shapes: Path, change: Callable[[dict], None] = lambda content: None) -> list[Path]:
    """Annotation files of the generated pictures with the categories that occur, changed."""
    files = []
    for part in ('train', 'val'):
        content = json.loads((shapes / f'coco/annotations/instances_{part}2017.json').read_text())
        content['categories'] = [entry for entry in content['categories'] if entry['id'] in (33, 37, 38)]
        change(content)
        files.append(shapes / f'coco/annotations/{part}2017-{len(json.dumps(content))}.json')
        files[-1].write_text(json.dumps(content))
    return files


def make(task: str, run: str, shapes: Path, labelled: Path) -> Recipe:
    if task == 'segment':
        return make_segmentation(shapes / 'ade20k', list(NAMES), list(NAMES.values()), [0], run)
    return (
        make_detection(shapes / 'coco', annotations(shapes), run)
        if task == 'detect'
        else (make_classification(labelled, run))
    )


def write(recipe: Recipe, folder: Path) -> Config:
    """Write a recipe's config and read it as train.py does, for two images in this process."""
    folder.mkdir(exist_ok=True)
    text = re.sub(r'(?m)^max_iters = \d+', 'max_iters = 2', recipe.config)
    (folder / 'config.py').write_text(re.sub(r'(?m)^batch_size = \d+', 'batch_size = 2', text))
    cfg = load_config(str(folder / 'config.py'), None, None, 'none')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


CLASSES = {'segment': tuple(NAMES), 'detect': ('suitcase', 'sports ball', 'kite'), 'classify': ('cat', 'dog')}
FIT = [(task, kind) for task in CLASSES for kind in KINDS if (task, kind) != ('detect', 'p2')]


@pytest.mark.parametrize(('task', 'kind'), FIT)
def test_config_fits_encoder_and_data_and_takes_a_step(
    task: str, kind: str, runs: dict[str, str], shapes: Path, labelled: Path, tmp_path: Path
) -> None:
    recipe = make(task, runs[kind], shapes, labelled)
    cfg = write(recipe, tmp_path / 'run')
    assert cfg.work_dir == str(tmp_path / 'run')
    check_data(cfg, 'train', 'val')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.model.get('data_preprocessor')})
        model.init_weights()
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    pretrained = torch.load(Path(runs[kind]) / 'epoch_1.pth', weights_only=True)['state_dict']
    for key, value in model.backbone.state_dict().items():
        torch.testing.assert_close(value, pretrained[f'backbone.{key}'], rtol=0, atol=0, msg=key)
    channels = KINDS[kind][2]
    assert model.data_preprocessor.mean.flatten().tolist() == [30.0, 60.0, 90.0][:channels]
    assert loader.dataset.metainfo['classes'] == CLASSES[task]
    batch = model.data_preprocessor(next(iter(loader)), training=True)
    assert batch['inputs'].shape[1] == channels
    assert not {side % KINDS[kind][1] for side in batch['inputs'].shape[2:]}
    losses = model(**batch, mode='loss')
    total = sum(sum(value) if isinstance(value, list) else value for key, value in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize('task', CLASSES)
def test_command_trains_and_names_what_comes_next(
    task: str,
    runs: dict[str, str],
    shapes: Path,
    labelled: Path,
    tmp_path: Path,
    run_tool: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(RULES, task, RULES[task]._replace(batch_size=2, fewest_steps=2, most_steps=2))
    options = {
        'segment': [shapes / 'ade20k', '--classes', *NAMES, '--values', *NAMES.values(), '--unlabelled', 0],
        'detect': [shapes / 'coco', '--annotations', *annotations(shapes)],
        'classify': [labelled],
    }[task]
    run_tool(f'{task}.py', *options, '--from', runs['p16'], '--out', tmp_path / 'run')
    printed = capsys.readouterr().out
    for start in ('Data: ', 'Model: ', 'Encoder: ', 'Training: 2 steps', 'Best in validation: ', 'Next:'):
        assert start in printed
    config, checkpoint = printed.split('randsac-mm test ')[1].split()[:2]
    run_tool('test.py', config, checkpoint, '--work-dir', tmp_path / 'test')
    assert Path(config).read_text() == (tmp_path / 'run/config.py').read_text()
    with pytest.raises(SystemExit, match='already'):
        run_tool(f'{task}.py', *options, '--from', runs['p16'], '--out', tmp_path / 'run')


def test_boxes_without_masks_train_a_detector_of_boxes(runs: dict[str, str], shapes: Path, tmp_path: Path) -> None:
    def remove(content: dict) -> None:
        for record in content['annotations']:
            del record['segmentation']

    cfg = write(make_detection(shapes / 'coco', annotations(shapes, remove), runs['p16']), tmp_path / 'run')
    check_data(cfg, 'train', 'val')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    assert 'loss_bbox' in losses
    assert 'loss_mask' not in losses
    assert cfg.val_evaluator.metric == ['bbox']
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


def test_folders_of_images_that_share_names_are_told_apart(runs: dict[str, str], shapes: Path, tmp_path: Path) -> None:
    cfg = write(make_detection(shapes / 'coco', annotations(shapes), runs['p16']), tmp_path / 'run')
    for part in ('train', 'val'):
        assert Path(cfg[f'{part}_dataloader'].dataset.data_prefix.img).name == f'{part}2017'


@pytest.mark.parametrize('kinds', FOLDERS)
@pytest.mark.parametrize('split', [*SPLITS, None])
def test_layouts_of_images_and_masks(
    kinds: tuple, split: tuple | None, runs: dict[str, str], shapes: Path, tmp_path: Path
) -> None:
    for kind, source in zip(kinds, ('images', 'annotations'), strict=True):
        for part, name in zip(split or [''], ('training', 'validation'), strict=False):
            shutil.copytree(shapes / 'ade20k' / source / name, tmp_path / 'data' / kind / part)
    recipe = make_segmentation(tmp_path / 'data', list(NAMES), list(NAMES.values()), [0], runs['p16'])
    trained, held_out = map(int, re.findall(r'(\d+) (?:images with masks )?to (?:train|validate) on', recipe.lines[0]))
    assert (trained, held_out) == ((8, 4) if split else (6, 2))


@pytest.mark.parametrize('held_out', ['val', 'test', None])
def test_layouts_of_class_folders(held_out: str | None, runs: dict[str, str], labelled: Path, tmp_path: Path) -> None:
    data = labelled
    if held_out:
        data = tmp_path / 'split'
        for part in ('train', held_out):
            shutil.copytree(labelled, data / part)
    cfg = write(make_classification(data, runs['p16']), tmp_path / 'run')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        sets = [Runner.build_dataloader(cfg[f'{part}_dataloader'], seed=0).dataset for part in ('train', 'val')]
    found = [
        {entry['img_path'] for entry in dataset} for dataset in ([*map(d.get_data_info, range(len(d)))] for d in sets)
    ]
    assert [len(paths) for paths in found] == ([10, 10] if held_out else [8, 2])
    assert not found[0] & found[1]


def test_filled_config_keeps_all_that_is_not_replaced() -> None:
    name = 'segmentation/upernet_vit-s_own.py'
    text = fill_config(name, 'Mine.', {'max_iters': 77, 'classes': tuple(f'class {n}' for n in range(99)), 'other': 1})
    before = Config.fromfile(downstream.config_path(name))
    after = Config.fromstring(text, '.py')
    assert after.train_cfg.max_iters == after.param_scheduler[1].end == 77
    assert len(after.classes) == after.model.decode_head.num_classes == 99
    assert 'other' not in after
    assert text.startswith('# Mine.\n_base_ = ')
    same = {'optim_wrapper', 'val_evaluator', 'default_scope', 'test_pipeline', 'encoder', 'short_side'}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert re.search(r'(?m)^max_iters = 77  # steps', text)


@given(st.sampled_from(list(RULES)), st.integers(1, 10**7))
def test_length_follows_the_number_of_images(task: str, images: int) -> None:
    rule, (batch_size, steps) = RULES[task], choose_length(task, images).values()
    assert 1 <= batch_size <= min(images, rule.batch_size)
    assert rule.fewest_steps <= steps <= rule.most_steps
    if rule.fewest_steps < steps < rule.most_steps:
        assert steps * batch_size / images == pytest.approx(rule.epochs, rel=0.01)


@given(st.sampled_from(list(RULES)), st.floats(1, 5000), st.integers(8, 1024), st.integers(1, 32))
def test_sides_are_whole_patches_between_pretraining_and_limit(task: str, median: float, size: int, patch: int) -> None:
    size = max(size // patch, 1) * patch
    side = choose_side(task, median, (size, size), patch)
    assert side % patch == 0
    assert size <= side <= max(size, RULES[task].most_patches * patch)
    if size < side < RULES[task].most_patches * patch:
        assert abs(side - median) <= patch / 2


@pytest.mark.parametrize(('objects', 'smallest_anchor'), [(8, 8), (16, 8), (40, 16), (94, 32), (600, 32)])
def test_smallest_anchors_by_the_median_object(objects: float, smallest_anchor: int) -> None:
    assert 4 * choose_anchor_scale(objects, 4) == smallest_anchor
    assert math.log2(choose_anchor_scale(objects / 2, 2)) == math.log2(smallest_anchor / 4)  # patches of 4 px


def paint(shapes: Path, folder: Path, table: dict[int, int]) -> Path:
    """Copy the generated pictures with other values in masks; 0 for those that are not named."""
    shutil.copytree(shapes / 'ade20k', folder)
    values = np.zeros(256, np.uint8)
    values[list(table)] = list(table.values())
    for path in folder.glob('annotations/*/*.png'):
        Image.fromarray(values[np.asarray(Image.open(path))]).save(path)
    return folder


@pytest.mark.parametrize(
    ('table', 'options', 'proposal'),
    [
        ({42: 255, 120: 255}, (['ground', 'thing'], None, None), '--values 0 255'),
        ({42: 128, 120: 200}, (['ground', 'box', 'ball'], None, None), '--values 0 128 200'),
        ({42: 1, 120: 11}, (['ground', 'thing'], None, None), '--unlabelled 11 255'),
        ({42: 1, 120: 11}, (['ground', 'thing'], [0, 1], [7]), '--unlabelled 7 11'),
    ],
)
def test_values_that_are_no_class_are_refused_with_a_proposal(
    table: dict, options: tuple, proposal: str, runs: dict[str, str], shapes: Path, tmp_path: Path
) -> None:
    data = paint(shapes, tmp_path / 'data', table)
    with pytest.raises(ValueError, match=f'{proposal}$'):
        make_segmentation(data, *options, runs['p16'])
    values, unlabelled = ([*map(int, proposal.split()[1:])] for _ in range(2))
    if 'values' in proposal:  # it works
        make_segmentation(data, options[0], values, None, runs['p16'])
    else:
        make_segmentation(data, options[0], options[1], unlabelled, runs['p16'])


REFUSED = {
    'no run': lambda r, s, d, t: make_classification(d, t / 'none'),
    'no pre-training': lambda r, s, d, t: make_classification(d, d / 'cat'),
    'three layers': lambda r, s, d, t: make_segmentation(
        s / 'ade20k', ['a', 'b'], None, None, make_run(t, num_layers=3)
    ),
    'patches of 2 px': lambda r, s, d, t: make_detection(s / 'coco', annotations(s), r['p2']),
    'other layout': lambda r, s, d, t: make_segmentation(s, ['a', 'b'], None, None, r['p16']),
    'one annotation file': lambda r, s, d, t: make_detection(s / 'coco', annotations(s)[:1], r['p16']),
    'no annotation file': lambda r, s, d, t: make_detection(s / 'coco', [t / 'a', t / 'b'], r['p16']),
    'images elsewhere': lambda r, s, d, t: make_detection(d, annotations(s), r['p16']),
    'no categories': lambda r, s, d, t: make_detection(
        s / 'coco', annotations(s, lambda content: content.pop('categories')), r['p16']
    ),
    'no folder': lambda r, s, d, t: make_classification(t / 'none', r['p16']),
    'one class': lambda r, s, d, t: make_classification(d / 'cat', r['p16']),
}


@pytest.mark.parametrize('mistake', REFUSED)
def test_mistakes_are_refused_in_one_line(
    mistake: str, runs: dict[str, str], shapes: Path, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        REFUSED[mistake](runs, shapes, labelled, tmp_path)
    assert '\n' not in str(caught.value)
