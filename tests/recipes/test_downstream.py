"""From a folder and a pre-training to a config: it fits the encoder and the data, trains, and any tool can run it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
from randsac_mm.export.encoder import Encoder
from randsac_mm.locations import config_path
from randsac_mm.recipes.classify import look_at_classes
from randsac_mm.recipes.detect import choose_anchor_scale, look_at_objects
from randsac_mm.recipes.downstream import (
    TASKS,
    choose_length,
    choose_side,
    fill_config,
    make_config,
    read_pretraining,
)
from randsac_mm.recipes.segment import FOLDERS, SPLITS, look_at_masks

NAMES = {'wall': 1, 'sky': 3, 'grass': 10, 'box': 42, 'tent': 115, 'ball': 120}  # of the generated pictures
LABELS = list(NAMES), list(NAMES.values()), [0]
CLASSES = {'segment': tuple(NAMES), 'detect': ('suitcase', 'sports ball', 'kite'), 'classify': ('cat', 'dog')}

pytestmark = pytest.mark.filterwarnings(
    'ignore:.* instance named', 'ignore:This DataLoader will create', 'ignore:Default ``avg_non_ignore``'
)


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_run(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope='module')
def encoder(runs: dict[str, Path]) -> Encoder:
    return read_pretraining('segment', runs['p16'])


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Ten images in class folders, of prime sizes."""
    for number in range(10):
        path = tmp_path / 'labelled' / ('cat', 'dog')[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (37, 53, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / 'labelled'


def annotations(shapes: Path, folder: Path, change: Callable[[dict], None] = lambda content: None) -> list[Path]:
    """Write annotation files of the generated pictures with the categories that occur, changed."""
    for part in ('train', 'val'):
        content = json.loads((shapes / f'coco/annotations/instances_{part}2017.json').read_text())
        content['categories'] = [entry for entry in content['categories'] if entry['id'] in (33, 37, 38)]
        change(content)
        (folder / f'{part}2017.json').write_text(json.dumps(content))
    return [folder / f'{part}2017.json' for part in ('train', 'val')]


def write(task: str, encoder: Encoder, look: Callable, folder: Path, *data: object) -> Config:
    """Write a recipe's config and read it as train.py does, for two images in this process."""
    text = make_config(task, encoder, look(encoder, *data))
    for name in ('batch_size', 'max_iters'):
        text = re.sub(rf'(?m)^{name} = \d+', f'{name} = 2', text)
    (folder / 'config.py').write_text(text)
    cfg = load_config(str(folder / 'config.py'), None, None, 'none')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    return cfg


def losses_of(cfg: Config) -> tuple[torch.nn.Module, dict, dict]:
    """Build model and data of a config; return the model, a batch and its losses."""
    check_data(cfg, 'train', 'val')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
        model = MODELS.build({**cfg.model, 'data_preprocessor': preprocessor})
        model.backbone.init_weights()
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        batch = model.data_preprocessor(next(iter(loader)), training=True)
        return model, batch, model(**batch, mode='loss')


FIT = [(task, kind) for task in TASKS for kind in KINDS if (task, kind) != ('detect', 'p2')]


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'kind'), FIT)
def test_config_fits_encoder_and_data_and_takes_a_step(
    task: str, kind: str, runs: dict[str, Path], shapes: Path, labelled: Path, tmp_path: Path
) -> None:
    look, data = {
        'segment': (look_at_masks, (shapes / 'ade20k', *LABELS)),
        'detect': (look_at_objects, (shapes / 'coco', annotations(shapes, tmp_path))),
        'classify': (look_at_classes, (labelled,)),
    }[task]
    cfg = write(task, read_pretraining(task, runs[kind]), look, tmp_path, *data)
    assert cfg.work_dir == str(tmp_path)
    dataset = cfg.train_dataloader.dataset
    assert tuple(dataset.get('classes') or dataset.metainfo.classes) == CLASSES[task]
    model, batch, losses = losses_of(cfg)
    pretrained = torch.load(runs[kind] / 'epoch_1.pth', weights_only=True)['state_dict']
    for key, value in model.backbone.state_dict().items():
        torch.testing.assert_close(value, pretrained[f'backbone.{key}'], rtol=0, atol=0, msg=key)
    size, patch, channels = KINDS[kind]
    assert model.data_preprocessor.mean.flatten().tolist() == [30.0, 60.0, 90.0][:channels]
    height, width = batch['inputs'].shape[2:]
    assert batch['inputs'].shape[1] == channels
    assert height % patch == width % patch == 0
    assert min(height, width) >= size
    total = sum(sum(loss) if isinstance(loss, list) else loss for key, loss in losses.items() if 'loss' in key)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.patch_embed.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segment', 'classify'])  # detect takes a minute more
def test_command_trains_and_names_what_comes_next(
    task: str,
    runs: dict[str, Path],
    shapes: Path,
    labelled: Path,
    tmp_path: Path,
    run_tool: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(TASKS, task, TASKS[task]._replace(batch_size=2, fewest_steps=2, most_steps=2))
    monkeypatch.setattr('randsac_mm.recipes.measure._STEPS', 1)
    options = {
        'segment': [shapes / 'ade20k', '--classes', *NAMES, '--values', *NAMES.values(), '--unlabelled', 0],
        'classify': [labelled],
    }[task]
    command = [f'{task}.py', *options, '--from', runs['p16'], '--out', tmp_path / 'run']
    run_tool(*command)
    printed = capsys.readouterr().out
    for start in ('Data ', 'Model ', 'Encoder ', 'Training   2 steps', 'Best in validation: ', 'Next:'):
        assert start in printed
    config, checkpoint = printed.split('randsac-mm test ')[1].split()[:2]
    assert Path(config) == tmp_path / 'run/config.py'
    run_tool('test.py', config, checkpoint, '--work-dir', tmp_path / 'test')
    before = Path(config).read_text()
    with pytest.raises(SystemExit, match='contains a run'):
        run_tool(*command)
    assert Path(config).read_text() == before


@pytest.mark.parametrize(
    ('task', 'options'),
    [('segment', ['--classes', 'a', 'b']), ('detect', ['--annotations', 'a', 'b']), ('classify', [])],
)
def test_commands_end_mistakes_with_a_line(task: str, options: list, run_tool: Callable, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f'{task}.py: error: there is no run or checkpoint {tmp_path}/none$'):
        run_tool(f'{task}.py', tmp_path, *options, '--from', tmp_path / 'none', '--out', tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_boxes_without_masks_train_a_detector_of_boxes(encoder: Encoder, shapes: Path, tmp_path: Path) -> None:
    def remove(content: dict) -> None:
        for record in content['annotations']:
            del record['segmentation']

    files = annotations(shapes, tmp_path, remove)
    cfg = write('detect', encoder, look_at_objects, tmp_path, shapes / 'coco', files)
    losses = losses_of(cfg)[2]
    assert 'loss_bbox' in losses
    assert 'loss_mask' not in losses
    assert cfg.val_evaluator.metric == ['bbox']
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


def test_folders_of_images_that_share_names_are_told_apart(encoder: Encoder, shapes: Path, tmp_path: Path) -> None:
    found = look_at_objects(encoder, shapes / 'coco', annotations(shapes, tmp_path))
    for part in ('train', 'val'):
        assert Path(found.variables[part]['data_prefix']['img']).name == f'{part}2017'


@pytest.mark.parametrize('kinds', FOLDERS)
@pytest.mark.parametrize('split', [*SPLITS, None])
def test_layouts_of_images_and_masks(
    kinds: tuple, split: tuple | None, encoder: Encoder, shapes: Path, tmp_path: Path
) -> None:
    for kind, source in zip(kinds, ('images', 'annotations'), strict=True):
        for part, name in zip(split or [''], ('training', 'validation'), strict=False):
            shutil.copytree(shapes / 'ade20k' / source / name, tmp_path / kind / part)
    found = look_at_masks(encoder, tmp_path, *LABELS)
    counts = ' '.join(re.findall(r'(\d+) to|(\d+) images', found.data)[0])
    assert (found.images, counts.strip()) == ((8, '8') if split else (7, '7'))
    assert f'{4 if split else 1} to validate on' in found.data


@pytest.mark.slow
@pytest.mark.parametrize('held_out', ['val', 'test', None])
def test_layouts_of_class_folders(held_out: str | None, encoder: Encoder, labelled: Path, tmp_path: Path) -> None:
    data = labelled
    if held_out:
        data = tmp_path / 'split'
        for part in ('train', held_out):
            shutil.copytree(labelled, data / part)
    cfg = write('classify', encoder, look_at_classes, tmp_path, data)
    paths = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            dataset = Runner.build_dataloader(loader, seed=0).dataset
        paths.append({dataset.get_data_info(index)['img_path'] for index in range(len(dataset))})
    assert list(map(len, paths)) == ([10, 10] if held_out else [8, 2])
    assert not paths[0] & paths[1]


@pytest.mark.parametrize('steps', [30, 31])
def test_only_a_long_training_is_regularized(steps: int, encoder: Encoder, labelled: Path, tmp_path: Path) -> None:
    """Longer than 30 epochs, which eight images and batches of eight have in 30 steps."""
    text = make_config('classify', encoder, look_at_classes(encoder, labelled))
    text = re.sub(r'(?m)^max_iters = \d+', f'max_iters = {steps}', text)
    (tmp_path / 'config.py').write_text(text)
    model = load_config(str(tmp_path / 'config.py'), None, None, 'none').model
    assert (bool(model.train_cfg), model.backbone.drop_path_rate > 0) == (steps > 30, steps > 30)


@pytest.mark.slow
@pytest.mark.parametrize(('seconds', 'validations'), [(30, 2), (200, 3), (7200, 10)])
def test_time_is_a_budget_of_the_run(
    seconds: float, validations: int, encoder: Encoder, labelled: Path, tmp_path: Path
) -> None:
    (tmp_path / 'config.py').write_text(make_config('classify', encoder, look_at_classes(encoder, labelled), seconds))
    cfg = load_config(str(tmp_path / 'config.py'), None, None, 'none')
    (hook,) = cfg.custom_hooks
    assert (hook.type, hook.seconds, hook.interval) == ('TimeBudgetHook', seconds, cfg.train_cfg.val_interval)
    assert cfg.train_cfg.max_iters // hook.interval + 1 == validations


def test_filled_config_keeps_all_that_is_not_replaced() -> None:
    name = 'segmentation/upernet_vit-s_own.py'
    classes = tuple(f'class {number}' for number in range(99))
    text = fill_config(name, '# Mine.', {'max_iters': 77, 'classes': classes, 'other': 1})
    before, after = Config.fromfile(config_path(name)), Config.fromstring(text, '.py')
    assert after.train_cfg.max_iters == after.param_scheduler[1].end == 77
    assert after.classes == after.train_dataloader.dataset.classes == classes
    assert after.model.decode_head.num_classes == 99
    assert 'other' not in after
    assert text.startswith('# Mine.\n_base_ = ')
    same = ('optim_wrapper', 'val_evaluator', 'default_scope', 'test_pipeline', 'encoder', 'short_side')
    assert all(after[key] == before[key] for key in same)
    assert re.search(r'(?m)^max_iters = 77  # steps', text)


@given(st.sampled_from(list(TASKS)), st.integers(1, 10**7))
def test_length_follows_the_number_of_images(task: str, images: int) -> None:
    rule, (batch_size, steps) = TASKS[task], choose_length(task, images).values()
    assert 1 <= batch_size <= min(images, rule.batch_size)
    assert rule.fewest_steps <= steps <= rule.most_steps
    if rule.fewest_steps < steps < rule.most_steps:
        assert steps * batch_size / images == pytest.approx(rule.epochs, rel=0.01)


@given(st.sampled_from(list(TASKS)), st.floats(1, 5000), st.integers(1, 64), st.integers(1, 32))
def test_sides_are_whole_patches_between_pretraining_and_limit(task: str, median: float, grid: int, patch: int) -> None:
    size, limit = grid * patch, TASKS[task].most_patches * patch
    backbone = SimpleNamespace(patch_size=patch, img_size=(size, size))
    side = choose_side(task, median, SimpleNamespace(backbone=backbone))
    assert side % patch == 0
    assert size <= side <= max(size, limit)
    if size < side < limit:
        assert abs(side - median) <= patch / 2


@pytest.mark.parametrize(('objects', 'smallest_anchor'), [(8, 8), (16, 8), (40, 16), (94, 32), (600, 32)])
def test_smallest_anchors_by_the_median_object(objects: float, smallest_anchor: int) -> None:
    assert 4 * choose_anchor_scale(objects, 4) == smallest_anchor
    assert 2 * choose_anchor_scale(objects / 2, 2) == smallest_anchor / 2  # patches of 4 px: half of all


def paint(shapes: Path, folder: Path, table: dict[int, int]) -> Path:
    """Copy the generated pictures with other values in masks; 0 for those that are not named."""
    shutil.copytree(shapes / 'ade20k', folder)
    values = np.zeros(256, np.uint8)
    values[list(table)] = list(table.values())
    for path in folder.glob('annotations/*/*.png'):
        Image.fromarray(values[np.asarray(Image.open(path))]).save(path)
    return folder


@pytest.mark.parametrize(
    ('table', 'labels', 'proposal'),
    [
        ({42: 255, 120: 255}, (['ground', 'thing'], None, None), '--values 0 255'),
        ({42: 128, 120: 200}, (['ground', 'box', 'ball'], None, None), '--values 0 128 200'),
        ({42: 1, 120: 11}, (['ground', 'thing'], None, None), '--unlabelled 11 255'),
        ({42: 1, 120: 11}, (['ground', 'thing'], [0, 1], [7]), '--unlabelled 7 11'),
    ],
)
def test_values_that_are_no_class_are_refused_with_a_proposal_that_works(
    table: dict, labels: tuple, proposal: str, encoder: Encoder, shapes: Path, tmp_path: Path
) -> None:
    data = paint(shapes, tmp_path / 'data', table)
    with pytest.raises(ValueError, match=f'{proposal}$'):
        look_at_masks(encoder, data, *labels)
    option, *numbers = proposal.split()
    look_at_masks(encoder, data, **dict(zip(('classes', 'values', 'unlabelled'), labels, strict=True)) | {
        option.removeprefix('--'): list(map(int, numbers))
    })  # fmt: skip


REFUSED = {
    'no run': lambda e, s, d, t: read_pretraining('classify', t / 'none'),
    'no pre-training': lambda e, s, d, t: read_pretraining('classify', d / 'cat'),
    'three layers': lambda e, s, d, t: read_pretraining('segment', make_run(t, num_layers=3)),
    'patches of 2 px': lambda e, s, d, t: read_pretraining('detect', make_run(t, 'p2')),
    'other layout': lambda e, s, d, t: look_at_masks(e, s, ['a', 'b']),
    'one annotation file': lambda e, s, d, t: look_at_objects(e, s / 'coco', annotations(s, t)[:1]),
    'no annotation file': lambda e, s, d, t: look_at_objects(e, s / 'coco', [t / 'a', t / 'b']),
    'images elsewhere': lambda e, s, d, t: look_at_objects(e, d, annotations(s, t)),
    'no categories': lambda e, s, d, t: look_at_objects(
        e, s / 'coco', annotations(s, t, lambda content: content.pop('categories'))
    ),
    'no folder': lambda e, s, d, t: look_at_classes(e, t / 'none'),
    'one class': lambda e, s, d, t: look_at_classes(e, d / 'cat'),
}


@pytest.mark.parametrize('mistake', REFUSED)
def test_mistakes_are_refused_in_one_line(
    mistake: str, encoder: Encoder, shapes: Path, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        REFUSED[mistake](encoder, shapes, labelled, tmp_path)
    assert '\n' not in str(caught.value)


def test_documented_rules_are_the_rules(root: Path) -> None:
    text = (root / 'docs' / 'recipes_downstream.md').read_text().split('**Rules.**')[1]
    for name, task in TASKS.items():
        row = next(line for line in text.splitlines() if line.startswith(f'| `{name}` |'))
        numbers = [cell.strip().replace(',', '') for cell in re.split(r'\|', row)[2:6]]
        assert numbers == list(map(str, (task.batch_size, task.epochs, task.fewest_steps, task.most_steps)))
        patches, sizes, layers = (cell.strip() for cell in row.split('|')[6:9])
        assert patches == (str(task.most_patches) if task.most_patches else 'as in pre-training')
        assert int(layers) == task.layers
        ranges = [list(map(int, part.split(' to '))) for part in sizes.split(', ')] if sizes != 'any' else [[1, 256]]
        assert [n for part in ranges for n in range(part[0], part[-1] + 1)] == list(task.patch_sizes)
