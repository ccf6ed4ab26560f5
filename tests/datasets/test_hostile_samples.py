"""Real samples as they are and in hostile versions: the labels arrive as they were, or an error names file and fault.

``python -m pytest tests/datasets/test_hostile_samples.py -rP`` prints the table of docs/own_data.md.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from randsac_mm.datasets import read_image
from randsac_mm.datasets.check import check_config, raise_errors

TURNED = Image.Exif()
TURNED[0x0112] = 6  # as stored, the photograph lies on its left side


def images_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob('*') if path.suffix in ('.jpg', '.png') and 'masks' not in path.parts)


def halve(root: Path) -> None:
    for path in images_of(root):
        image = Image.open(path)
        image.resize((image.width // 2, image.height // 2)).save(path)


def turn(root: Path) -> None:
    """Store all photographs on their side, with the EXIF tag that turns them upright."""
    for path in images_of(root):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=TURNED, quality=95)


def rename(root: Path) -> None:
    """Write all endings in capitals."""
    for path in [path for path in root.rglob('*') if path.suffix in ('.jpg', '.png')]:
        path.rename(path.with_suffix(path.suffix.upper()))


def store_12_bits(root: Path) -> None:
    """Store the photographs in grey, values 0 to 4,080 in 16 bits."""
    for path in images_of(root):
        grey = np.asarray(Image.open(path).convert('L')).astype(np.uint16) * 16
        path.unlink()
        Image.fromarray(grey).save(path.with_suffix('.png'))


def hide(root: Path) -> None:
    """Add a hidden folder with a copy of an image and of a mask, as editors do."""
    for kind in ('images', 'masks'):
        (root / kind / '.ipynb_checkpoints').mkdir()
        path = min(path for path in (root / kind).glob('*.*') if path.is_file())
        shutil.copy(path, root / kind / '.ipynb_checkpoints' / path.name)


def renumber(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        for path in (root / 'masks').glob('*.png'):
            Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)

    return work


def void_11(mask: np.ndarray) -> np.ndarray:
    """Eleven classes from 0, and 11 for unlabelled."""
    return np.where(mask == 0, 11, mask % 11)


MANY = {'classes': [f'class {n}' for n in range(150)], 'values': list(range(1, 151)), 'unlabelled': 0}  # as ADE20K
ELEVEN = {'classes': [f'class {n}' for n in range(11)]}
TWO = {'classes': ['nothing', 'something']}
SEGMENTATION: dict[str, tuple[Callable | None, dict[str, Any], Callable | None, list[str]]] = {
    # version: how the files are changed, the data set, labels expected from the original values, or words of the error
    'as it is': (None, MANY, lambda m: np.where(m == 0, 255, m - 1), []),
    'halved images': (halve, MANY, None, ['3 masks have another size', 'ADE_val_00000001.png']),
    'turned photographs': (turn, MANY, lambda m: np.where(m == 0, 255, m - 1), []),
    'turned photographs, raw masks': (
        lambda root: (turn(root), renumber(np.rot90)(root)), MANY, None, ['raw pixels', 'EXIF', '.png']
    ),
    '0/255 masks, values not named': (renumber(lambda m: (m > 0) * 255), TWO, None, ['0 and 255', 'values=(0, 255)']),
    '0/255 masks, values named': (
        renumber(lambda m: (m > 0) * 255), {**TWO, 'values': (0, 255), 'unlabelled': None}, lambda m: m > 0, []
    ),
    'unlabelled is 11, not named': (renumber(void_11), ELEVEN, None, ['value 11', 'unlabelled=11', '.png']),
    'unlabelled is 11, named': (
        renumber(void_11), {**ELEVEN, 'unlabelled': 11}, lambda m: np.where(m == 0, 255, m % 11), []
    ),
    'hidden folder': (hide, MANY, lambda m: np.where(m == 0, 255, m - 1), []),
    'upper-case endings': (rename, MANY, lambda m: np.where(m == 0, 255, m - 1), []),
    '12 bits': (store_12_bits, MANY, lambda m: np.where(m == 0, 255, m - 1), []),
}  # fmt: skip


def load(cfg: Config) -> list[dict]:
    """What the data set of a config delivers, if the check finds no error."""
    reports = check_config(cfg, ['train'])
    raise_errors(reports)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        return [dataset[index] for index in range(len(dataset))]


def outcome(task: str, version: str, cfg: Config, named: list[str]) -> list[dict] | None:
    """Load the samples, or check that the error has the words."""
    if not named:
        samples = load(cfg)
        print(f'| {task} | {version} | right: {len(samples)} images |')
        return samples
    with pytest.raises(ValueError, match=r'\S') as caught:
        load(cfg)
    text = str(caught.value).replace(str(Path(cfg.train_dataloader.dataset.data_root)), '')
    print(f'| {task} | {version} | refused: {text.splitlines()[0][:160]} |')
    for word in named:
        assert word in text
    return None


@pytest.mark.slow
@pytest.mark.parametrize('version', SEGMENTATION)
def test_segmentation(shared_data: Path, tmp_path: Path, version: str) -> None:
    change, dataset, expected, named = SEGMENTATION[version]
    shutil.copytree(shared_data / 'ade20k_sample/images', tmp_path / 'images')
    shutil.copytree(shared_data / 'ade20k_sample/annotations', tmp_path / 'masks')
    original = [np.asarray(Image.open(path)) for path in sorted((tmp_path / 'masks').glob('*.png'))]
    before = [read_image(path) for path in images_of(tmp_path)]
    if change:
        change(tmp_path)
    pipeline = [dict(type='LoadImageStrict'), dict(type='LoadMaskStrict'), dict(type='PackSegInputs')]
    source = dict(type='SegmentationFolder', data_root=str(tmp_path), pipeline=pipeline, **dataset)
    source['data_prefix'] = dict(img_path='images', seg_map_path='masks')
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=source)))
    samples = outcome('segmentation', version, cfg, named)
    for sample, mask, image in zip(samples, original, before, strict=True) if samples else ():
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        np.testing.assert_array_equal(labels, expected(mask.astype(int)))
        pixels = sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1].astype(int)
        grey = np.asarray(Image.fromarray(image).convert('L'))[..., None]
        assert abs(pixels - (grey if version == '12 bits' else image)).mean() < 3  # written again as JPEG


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        content = json.loads((root / 'train.json').read_text())
        change(content)
        (root / 'train.json').write_text(json.dumps(content))

    return work


def each(kind: str, change: Callable[[dict], Any]) -> Callable[[Path], None]:
    return edit(lambda content: [change(entry) for entry in content[kind]] and None)


def both(*changes: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda root: [change(root) for change in changes] and None


def lie_down(image: dict) -> None:
    image['width'], image['height'] = image['height'], image['width']


def as_corners(entry: dict) -> None:
    x, y, width, height = entry['bbox']
    entry['bbox'] = [x, y, x + width, y + height]


def new_ending(ending: str) -> Callable[[Path], None]:
    return each('images', lambda image: image.update(file_name=image['file_name'].replace('jpg', ending)))


DETECTION: dict[str, tuple[Callable | None, list[str]]] = {
    # version: how the files are changed, words of the error
    'as it is': (None, []),
    'halved images': (halve, ['000000', 'jpg']),
    'turned photographs': (turn, []),
    'turned photographs, raw annotations': (both(turn, each('images', lie_down)), ['EXIF', 'jpg']),
    'swapped categories': (edit(lambda content: content['categories'].reverse()), []),
    'missing area': (each('annotations', lambda entry: entry.pop('area')), []),
    'missing iscrowd': (each('annotations', lambda entry: entry.pop('iscrowd')), []),
    'area 0': (each('annotations', lambda entry: entry.update(area=0)), []),
    'every id is 0': (each('annotations', lambda entry: entry.update(id=0)), []),
    'upper-case endings': (both(rename, new_ending('JPG')), []),
    '12 bits': (both(store_12_bits, new_ending('png')), []),
    'boxes as corners': (each('annotations', as_corners), ['corner', 'train.json']),
    'a class of another name': (each('categories', lambda c: c.update(name=c['name'].replace('ski', 'sli'))), ['skis']),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('version', DETECTION)
def test_detection(shared_data: Path, tmp_path: Path, version: str) -> None:
    change, named = DETECTION[version]
    shutil.copytree(shared_data / 'tinycoco/images/train2017', tmp_path / 'images')
    shutil.copy(shared_data / 'tinycoco/annotations/instances_train2017.json', tmp_path / 'train.json')
    original = json.loads((tmp_path / 'train.json').read_text())
    if change:
        change(tmp_path)
    source = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='train.json', data_prefix=dict(img='images'))
    source['pipeline'] = [
        dict(type='LoadImageStrict'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs'),
    ]
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=source)))
    cfg.model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))
    samples = outcome('detection', version, cfg, named)
    if samples is None:
        return
    from mmdet.datasets import CocoDataset

    names = {category['id']: category['name'] for category in original['categories']}
    stems = {Path(image['file_name']).stem: image['id'] for image in original['images']}
    assert len(samples) == len(stems)
    for sample in samples:
        found = sample['data_samples'].gt_instances
        expected = sorted(
            (names[entry['category_id']], *np.round(entry['bbox'][:2]))
            for entry in original['annotations']
            if entry['image_id'] == stems[Path(sample['data_samples'].img_path).stem]
            and (not entry['iscrowd'] or version == 'missing iscrowd')
        )
        labels = [CocoDataset.METAINFO['classes'][label] for label in found.labels]
        corners = found.bboxes.tensor.numpy()[:, :2].round()
        assert sorted((name, *corner) for name, corner in zip(labels, corners, strict=True)) == expected
