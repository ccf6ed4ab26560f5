"""The configs for a user's own data train, validate and predict after at most five lines have been changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

# Training and prediction share a process here.
pytestmark = pytest.mark.filterwarnings('ignore:.* instance named')

# What makes a run short; users leave it as it is.
SHORT = """
for loader in (train_dataloader, val_dataloader):
    loader.update(num_workers=0, persistent_workers=False)
small = dict(_delete_=True, embed_dims=384, num_layers=4, num_heads=6, feedforward_channels=384)
model['backbone'].update(arch=small)
"""
SMALL = {
    'segmentation/upernet_vit-s_own.py': """
model.update(data_preprocessor=dict(size=(64, 64)), test_cfg=dict(_delete_=True, mode='whole'))
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='Resize', scale=(96, 64))]
steps.append(dict(type='RandomCrop', crop_size=(64, 64)))
train_dataloader['dataset']['pipeline'] = [*steps, dict(type='PackSegInputs')]
val_dataloader['dataset']['pipeline'] = [steps[0], steps[2], steps[1], dict(type='PackSegInputs')]
train_dataloader['batch_size'] = 2
train_cfg = dict(max_iters=2, val_interval=2)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
default_hooks['checkpoint'].update(interval=2)
""",
    'detection/mask-rcnn_vit-s_own_coco.py': """
steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
         dict(type='Resize', scale=(96, 96), keep_ratio=True)]
meta = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
train_dataloader['dataset']['pipeline'] = [*steps, dict(type='PackDetInputs')]
val_dataloader['dataset']['pipeline'] = [steps[0], steps[2], steps[1], meta]
train_dataloader['dataset'].update(indices=2)
val_dataloader['dataset'].update(indices=2)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1, val_interval=1)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
""",
    'finetune/finetune_vit-s_own.py': """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1, val_interval=1)
train_dataloader['batch_size'] = 2
optim_wrapper.update(type='OptimWrapper')
default_hooks['checkpoint'].update(interval=1)
""",
}  # fmt: skip


def change(root: Path, config: str, folder: Path, **lines: Any) -> Path:
    """Copy a config and change some of its lines, as a user does; at the end stands what makes the run short."""
    text = (root / 'configs' / config).read_text()
    assert len(lines) <= 5
    for name, value in lines.items():
        old = next(line for line in text.splitlines() if line.startswith(f'{name} = '))
        text = text.replace(old, f'{name} = {value!r}')
    text = text.replace("'../", f"'{root}/configs/").replace("'./", f"'{(root / 'configs' / config).parent}/")
    path = folder / Path(config).name
    path.write_text(text + SMALL[config] + SHORT)
    return path


@pytest.fixture
def segmentation(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Images and masks, and the lines to change."""
    names = {'wall': 1, 'sky': 3, 'grass': 10, 'box': 42, 'tent': 115, 'ball': 120}
    if request.param == 'generated':
        source = request.getfixturevalue('shapes') / 'ade20k'
        pairs = [(source / kind / 'training') for kind in ('images', 'annotations')]
    else:
        source = request.getfixturevalue('shared_data') / 'ade20k_sample'
        pairs = [source / 'images', source / 'annotations']
        names = {f'class {value}': value for value in range(1, 151)}
    for part in ('train', 'val'):
        for kind, folder in zip(('images', 'masks'), pairs, strict=True):
            shutil.copytree(folder, tmp_path / 'data' / kind / part)
    values = {'classes': tuple(names), 'values': tuple(names.values()), 'unlabelled': 0}
    return {'data_root': str(tmp_path / 'data'), **values, 'checkpoint': None}


@pytest.fixture
def detection(request: pytest.FixtureRequest) -> dict[str, Any]:
    """An annotation file, and the lines to change."""
    shared = request.param != 'generated'
    root = request.getfixturevalue('shared_data') / 'tinycoco' if shared else request.getfixturevalue('shapes') / 'coco'
    content = json.loads((root / 'annotations/instances_val2017.json').read_text())
    used = {entry['category_id'] for entry in content['annotations']}
    part = {
        'ann_file': 'annotations/instances_val2017.json',
        'data_prefix': {'img': 'images/val2017' if shared else 'val2017'},
    }
    names = tuple(category['name'] for category in reversed(content['categories']) if category['id'] in used)
    return {'data_root': f'{root}/', 'classes': names, 'train': part, 'val': part, 'checkpoint': None}


@pytest.mark.slow
@pytest.mark.parametrize('segmentation', ['generated', 'real'], indirect=True)
def test_segmentation(root: Path, tmp_path: Path, run_tool: Callable, segmentation: dict[str, Any]) -> None:
    config = change(root, 'segmentation/upernet_vit-s_own.py', tmp_path, **segmentation)
    run_tool('check_data.py', config, '--sheet', tmp_path / 'sheet', '--json', tmp_path / 'report.json')
    model, train, val = json.loads((tmp_path / 'report.json').read_text())
    assert set(model['facts']['num_classes'].values()) == {len(segmentation['classes'])}
    assert train['facts']['classes'] == val['facts']['classes']
    with Image.open(tmp_path / 'sheet' / 'train_dataloader.dataset.png') as sheet:
        assert sheet.width == 1500
    run_tool('train.py', config, '--work-dir', tmp_path / 'run')
    images = f'{segmentation["data_root"]}/images/val'
    run_tool('predict.py', config, tmp_path / 'run/iter_2.pth', images, '--out', tmp_path / 'out')
    assert len(list((tmp_path / 'out/labels').glob('*.png'))) == train['facts']['images']
    assert 'mIoU: ' in next((tmp_path / 'run').glob('*/*.log')).read_text()


@pytest.mark.slow
@pytest.mark.parametrize('detection', ['generated', 'real'], indirect=True)
def test_detection(root: Path, tmp_path: Path, run_tool: Callable, detection: dict[str, Any]) -> None:
    config = change(root, 'detection/mask-rcnn_vit-s_own_coco.py', tmp_path, **detection)
    run_tool('check_data.py', config, '--sheet', tmp_path / 'sheet')
    run_tool('train.py', config, '--work-dir', tmp_path / 'run')
    images = Path(detection['data_root'], detection['val']['data_prefix']['img'])
    run_tool('predict.py', config, tmp_path / 'run/iter_1.pth', images, '--out', tmp_path / 'out')
    found = json.loads((tmp_path / 'out/results.json').read_text())
    assert tuple(found['classes']) == detection['classes']
    assert 'segm_mAP: ' in next((tmp_path / 'run').glob('*/*.log')).read_text()


@pytest.mark.slow
def test_classification(root: Path, tmp_path: Path, run_tool: Callable, shapes: Path) -> None:
    pictures = sorted((shapes / 'ade20k/images/training').glob('*.jpg'))
    for part in ('train', 'val'):
        for number, picture in enumerate(pictures[:4]):
            folder = tmp_path / 'data' / part / ('dog', 'cat', '.cache')[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, folder)
    lines = {'data_root': str(tmp_path / 'data'), 'classes': ('dog', 'cat'), 'checkpoint': None}
    config = change(root, 'finetune/finetune_vit-s_own.py', tmp_path, **lines)
    run_tool('check_data.py', config, '--sheet', tmp_path / 'sheet')
    run_tool('train.py', config, '--work-dir', tmp_path / 'run')
    run_tool('test.py', config, tmp_path / 'run/iter_1.pth', '--work-dir', tmp_path, '--out', tmp_path / 'test.json')
    assert 0 <= json.loads((tmp_path / 'test.json').read_text())['accuracy/top1'] <= 100
