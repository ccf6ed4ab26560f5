"""Contract: every command of the README runs, from an empty folder, on stand-ins for data and sizes.

The commands are read out of the README. ``STAND_INS`` says for each what is replaced in it, and nothing else is. One
that has no entry fails, and so does an entry whose command or text the README no longer has.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from processes import run
from sklearn.datasets import load_digits

from tools.make_shapes import make_shapes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
DRY = '--dry-run --no-index --no-deps'
SHORT = '--cfg-options train_cfg.max_iters=2'
STAND_INS = {
    # What they do needs a network and half an hour, and is done by .ci/run: here they are parsed.
    'bash tools/quickstart.sh': {'bash': 'bash -n'},
    'bash tools/run_tests.sh': {'bash': 'bash -n'},
    # Everything is there: pip only looks.
    'pip install -r requirements/mminstall.txt -c requirements/constraints.txt': {'pip install': f'pip install {DRY}'},
    'pip install .': {'pip install .': f'pip install {DRY} --no-build-isolation {ROOT}'},
    # These follow each other.
    'randsac-mm pretrain PHOTOS --time 30m --out RUN': {'PHOTOS': 'photos', '--time 30m': '--epochs 1'},
    'randsac-mm segment DATA --classes road field forest --unlabelled 11 --from RUN': {'DATA': 'masks'},
    'randsac-mm detect IMAGES --annotations train.json val.json --from RUN': {'IMAGES': 'shapes/coco/train2017'},
    'randsac-mm classify DATA --from RUN': {'DATA': 'photos'},
    'randsac-mm embed RUN IMAGES --out features.npz': {'IMAGES': 'photos'},
    'randsac-mm export RUN --to timm hf onnx --out exports': {},
    # The smallest configs with the same bases.
    'bash tools/dist_train.sh configs/randsac/vit-b_in1k.py 8': {
        'configs/randsac/vit-b_in1k.py 8': 'vit-b_in1k_small.py 1 --epochs 2'
    },
    'bash tools/dist_train.sh configs/segmentation/upernet_vit-b_ade20k-512.py 8': {
        'configs/segmentation/upernet_vit-b_ade20k-512.py 8': f'configs/smoke/upernet_vit_shapes.py 1 {SHORT}'
    },
    'bash tools/dist_train.sh configs/detection/mask-rcnn_vit-b_fpn_coco.py 8': {
        'configs/detection/mask-rcnn_vit-b_fpn_coco.py 8': 'configs/smoke/mask-rcnn_vit_shapes.py 1'
    },
}
SMALL = f"""\
_base_ = {str(ROOT / 'configs' / 'randsac' / 'vit-b_in1k.py')!r}
arch = dict(_delete_=True, embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
model = dict(backbone=dict(arch=arch), neck=dict(embed_dims=24, num_layers=1, num_heads=2))
train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root='data/imagenet'))
default_hooks = dict(compile=dict(enabled=False))
"""
# `randsac-mm`, but a few steps are enough for segment, detect and classify, which take no --epochs; one is measured.
COMMAND = """\
import sys
from randsac_mm import cli
from randsac_mm.recipes import downstream, measure
measure._STEPS, measure._SECONDS = 1, 0.0
for name, task in downstream.TASKS.items():
    downstream.TASKS[name] = task._replace(epochs=1, fewest_steps=2)
sys.argv[0] = 'randsac-mm'
cli.main()
"""


def read_blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.DOTALL | re.MULTILINE)


def read_commands() -> list[str]:
    lines = ''.join(read_blocks('bash')).replace('\\\n', ' ').splitlines()
    return [shlex.join(words) for words in (shlex.split(line, comments=True) for line in lines) if words]


def adapt(command: str) -> list[str]:
    """Replace in a command what STAND_INS says."""
    for text, other in STAND_INS[command].items():
        assert command.count(text) == 1, f'{command} does not have {text}'
        command = command.replace(text, other)
    return ['python', 'command.py', *command.split()[1:]] if command.startswith('randsac-mm') else command.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder but for small data, and what of a clone the commands name."""
    for name in ('tools', 'configs', 'requirements'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'command.py').write_text(COMMAND)
    (tmp_path / 'vit-b_in1k_small.py').write_text(SMALL)
    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:60], labels, strict=False)):
        picture = Image.fromarray((image.reshape(8, 8) * 15).astype(np.uint8)).resize((32, 32))
        for path in (f'photos/{label}/{number}.png', f'data/imagenet/train/{label}/{number}.JPEG'):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            picture.convert('RGB').save(tmp_path / path)
    for number in range(10):
        for kind, values in (('images', np.arange(256)), ('masks', np.array([0, 1, 2, 11]))):
            pixels = np.random.default_rng(number).choice(values, (48, 64)).astype(np.uint8)
            (tmp_path / 'masks' / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / 'masks' / kind / f'{number}.png')
    for out in ('data/shapes', 'shapes'):
        make_shapes(tmp_path / out, size=(64, 80))
    whole = json.loads((tmp_path / 'shapes/coco/annotations/instances_train2017.json').read_text())
    for name, part in (('train', whole['images'][:5]), ('val', whole['images'][5:])):
        (tmp_path / f'{name}.json').write_text(json.dumps({**whole, 'images': part, 'annotations': [
            item for item in whole['annotations'] if item['image_id'] in {image['id'] for image in part}
        ]}))  # fmt: skip
    return tmp_path


def test_every_command_has_its_stand_ins() -> None:
    assert read_commands() == list(STAND_INS)
    assert all(map(adapt, STAND_INS))


@pytest.mark.slow
@pytest.mark.parametrize('program', ['pip', 'bash'])
def test_commands_run(folder: Path, program: str) -> None:
    for command in (command for command in STAND_INS if command.startswith(program)):
        run(*adapt(command), cwd=folder)
    if program == 'bash':
        names = ('vit-b_in1k_small/epoch_2.pth', 'upernet_vit_shapes/iter_2.pth', 'mask-rcnn_vit_shapes/epoch_2.pth')
        assert [name for name in names if not (folder / 'work_dirs' / name).is_file()] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_a_folder_of_images_to_exports(folder: Path) -> None:
    for command in (command for command in STAND_INS if command.startswith('randsac-mm')):
        run(*adapt(command), cwd=folder)
    configs = ['RUN/config.py', *(f'work_dirs/{name}/config.py' for name in ('masks_segment', 'photos_classify'))]
    assert all(Config.fromfile(folder / name).model for name in configs)
    features = np.load(folder / 'features.npz')
    assert len(features['features']) == len(features['names']) == 60
    assert {path.name for path in (folder / 'exports').iterdir()} == {'timm', 'hf', 'onnx'}


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_the_config_for_other_projects_makes_a_pyramid(scope: str) -> None:
    (text,) = read_blocks('python')
    model = Config.fromstring(text, '.py').model
    init_default_scope(scope)
    with torch.device('meta'):
        backbone, neck = (MODELS.build(model[part]).to('meta').eval() for part in ('backbone', 'neck'))
        maps = neck(backbone(torch.empty(1, 3, 224, 224)))
    assert [tuple(level.shape) for level in maps] == [(1, 768, side, side) for side in (56, 28, 14, 7)]
