"""The check of a config's data sets: what is right passes with the right numbers, what is wrong is an error that names
file or key and value."""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from randsac_mm.engine.tool import describe

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from randsac_mm.datasets import scan
from randsac_mm.datasets.check import check_config, raise_errors
from randsac_mm.datasets.data_report import DataError, DataReport, format_report
from randsac_mm.datasets.model_checks import check_most_instances

SIZE = (6, 7)  # height and width of the images


def mask(*values: int, kind: type = np.uint8, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask with these values, the rest 0."""
    pixels = np.zeros(size, kind)
    pixels.ravel()[: len(values)] = values
    return pixels


def write(root: Path, masks: Sequence[np.ndarray | None], part: str = 'train', **options: Any) -> None:
    """Write images 0.jpg, 1.jpg, ... and their masks."""
    for kind in ('images', 'masks'):
        (root / kind / part).mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(masks):
        Image.new('RGB', SIZE[::-1], 'green').save(root / f'images/{part}/{number}.jpg', **options)
        if pixels is not None:
            Image.fromarray(pixels).save(root / f'masks/{part}/{number}.png')


def segmentation(root: Path, classes: Any = ('sky', 'sea', 'sand'), heads: int | None = None, **dataset: Any) -> Config:
    """A config of mmseg with the data that ``write`` wrote; further arguments are those of the data set."""
    names = {'type': 'BaseSegDataset', 'metainfo': {'classes': classes}}
    if dataset.get('type') == 'SegmentationFolder':
        names = {'classes': classes}
    source = {'data_root': str(root), 'data_prefix': {'img_path': 'images/train', 'seg_map_path': 'masks/train'}}
    head = {'num_classes': len(classes) if heads is None else heads}
    return Config(
        {
            'default_scope': 'mmseg',
            'model': {
                'decode_head': {'type': 'FCNHead', **head},
                'auxiliary_head': {'type': 'FCNHead', **head},
                'data_preprocessor': {'type': 'SegDataPreProcessor'},
            },
            'train_dataloader': {
                'batch_size': 2, 'sampler': {'type': 'InfiniteSampler'}, 'dataset': {**names, **source, **dataset}
            },
            'val_evaluator': {'type': 'IoUMetric'},
        }
    )  # fmt: skip


def check(cfg: Config) -> tuple[list[DataReport], str]:
    """The reports, and all errors as one text."""
    reports = check_config(cfg)
    errors = [error for report in reports for error in report.errors]
    if errors:
        with pytest.raises(ValueError, match=r'\S'):
            raise_errors(reports)
    else:
        raise_errors(reports)
    return reports, '\n'.join(errors)


def two(**dataset: Any) -> dict[str, Any]:
    return {'classes': ('back', 'cell'), **dataset}


OURS = {'type': 'SegmentationFolder'}
MASKS: dict[str, tuple[list[np.ndarray | None], dict[str, Any], list[str]]] = {
    # case: masks, arguments of the config, what the errors name (none: no error)
    'right': ([mask(1, 2), mask(255, 1)], {}, []),
    'value beyond the classes': ([mask(1, 2), mask(1, 3, 3)], {}, ['1.png', 'value 3', '2 pixels', '1 of 2', '0 to 2']),
    'zero is unlabelled': ([mask(1, 2, 3)], {'reduce_zero_label': True}, []),
    'zero is unlabelled, and a value too many': ([mask(1, 4)], {'reduce_zero_label': True}, ['value 4']),
    '0/255 for two classes, mmseg': ([mask(255, 255)] * 2, two(), ['0 and 255', 'cell', 'values=(0, 255)']),
    '0/255 for two classes, ours without values': ([mask(255, 255)] * 2, two(**OURS), ['0 and 255', 'values=(0, 255)']),
    '0/255 for two classes, ours': ([mask(255)] * 2, two(**OURS, values=(0, 255), unlabelled=None), []),
    'unlabelled is 11': ([mask(1, 2, 11)], {**OURS, 'unlabelled': 11}, []),
    'unlabelled is 11, unnamed': ([mask(1, 2, 11)], OURS, ['value 11', 'unlabelled=11']),
    'unlabelled is 11, mmseg': ([mask(1, 2, 11)], {}, ['value 11']),
    '16 bits': ([mask(1, 2, kind=np.uint16)], {}, []),
    'depths': ([np.arange(2000, dtype=np.uint16).reshape(40, 50)], {}, ['2,000 different', '0.png']),
    '16 bits beyond 255': ([mask(1, 257, kind=np.uint16)], {}, ['value 257']),
    'colours': ([np.eye(7, dtype=np.uint8)[:6, :, None] * np.uint8([1, 2, 3])], {}, ['0.png', 'RGB']),
    'equal channels': ([np.stack([mask(1, 2)] * 3, 2)], {}, []),
    'grey and alpha': ([np.stack([mask(1, 2), np.full(SIZE, 255, np.uint8)], 2)], {}, []),
    'another size': ([mask(1, 2), mask(1, size=(3, 4))], {}, ['1.png', '4 x 3', '7 x 6']),
    'no labelled pixel at all': ([np.full(SIZE, 255, np.uint8)] * 2, {}, ['2 of 2', 'no labelled pixel']),
    'missing mask, mmseg': ([mask(1, 2), None], {}, ['1.png', 'does not exist']),
    'missing mask, ours': ([mask(1, 2), None], OURS, []),
    'heads of 150 classes': ([mask(1, 2)], {'heads': 150}, ['decode_head.num_classes=150', 'auxiliary_head', '3']),
    'heads of too few classes': ([mask(1, 2)], {'heads': 2}, ['decode_head.num_classes=2', 'has 3']),
    'one class': ([mask(0)], {'classes': ('all',)}, ['1 class', 'all']),
    'only one of the classes occurs': ([mask(0)], {}, ['only one occurs', 'sea', 'sand']),
    'a name instead of a list': ([mask(0, 1)], {**OURS, 'classes': 'cell'}, ['cell', 'comma']),
}  # fmt: skip


@pytest.mark.parametrize('case', MASKS)
def test_masks(tmp_path: Path, case: str) -> None:
    masks, arguments, named = MASKS[case]
    write(tmp_path, masks)
    _, errors = check(segmentation(tmp_path, **arguments))
    assert bool(errors) == bool(named), errors
    for text in named:
        assert text in errors


def test_numbers_of_masks(tmp_path: Path) -> None:
    """Images and pixels of each class, and what is left out, are counted as they are."""
    write(tmp_path, [mask(1, 2, 2), mask(2, 7), None])
    (tmp_path / 'images/train/notes.txt').write_text('')
    Image.new('L', (2, 2)).save(tmp_path / 'masks/train/9.png')
    reports, errors = check(segmentation(tmp_path, **OURS, unlabelled=7))
    facts = reports[1].facts
    assert errors == ''
    assert facts['images'] == 2
    assert facts['classes'] == {
        'sky': {'images': 2, 'pixels': 42 * 2 - 5},
        'sea': {'images': 1, 'pixels': 1},
        'sand': {'images': 2, 'pixels': 3},
    }
    assert facts['unlabelled_pixels'] == 1
    assert sum(map(len, facts['skipped'].values())) == 3
    for name in ('2.jpg', '9.png', 'notes.txt'):
        assert name in format_report(reports[1])


def test_a_turned_photograph_and_a_mask_of_its_raw_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path, [mask(1, 2)], exif=exif)
    _, errors = check(segmentation(tmp_path))
    assert '0.png' in errors
    assert 'EXIF' in errors
    Image.fromarray(mask(1, 2).T.copy()).save(tmp_path / 'masks/train/0.png')
    assert check(segmentation(tmp_path))[1] == ''


@pytest.mark.parametrize(
    ('key', 'value'),
    [('decode_head.ignore_index', 11), ('data_preprocessor.seg_pad_val', 0)],
)
def test_one_label_is_ignored_everywhere(tmp_path: Path, key: str, value: int) -> None:
    write(tmp_path, [mask(1, 2)])
    cfg = segmentation(tmp_path)
    cfg.merge_from_dict({f'model.{key}': value})
    errors = check(cfg)[1]
    assert f'model.{key}={value}' in errors
    ignored = {'model.decode_head.ignore_index': value, 'model.auxiliary_head.ignore_index': value}
    cfg.merge_from_dict({**ignored, 'model.data_preprocessor.seg_pad_val': value, 'val_evaluator.ignore_index': value})
    assert 'must be ignored by all' not in check(cfg)[1]


def folders(root: Path, part: str, *classes: str) -> None:
    """Write one image for each class."""
    for name in classes:
        (root / part / name).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', SIZE).save(root / part / name / '0.JPG')


def classification(
    root: Path, heads: int, val: str | None = 'val', kind: str = 'CustomDataset', **others: Any
) -> Config:
    """A config of mmpretrain with class folders in train and val."""

    def loader(part: str) -> dict:
        where = {'data_prefix': part} if kind == 'CustomDataset' else {'split': part}
        return {'batch_size': 2, 'dataset': {'type': kind, 'data_root': str(root), **where, **others}}

    cfg = {
        'default_scope': 'mmpretrain',
        'model': {'head': {'type': 'LinearClsHead', 'num_classes': heads, 'topk': (1, 5)}},
        'train_dataloader': loader('train'),
        'val_evaluator': {'type': 'Accuracy', 'topk': (1, 5)},
    }
    return Config({**cfg, 'val_dataloader': loader(val)} if val else cfg)


CLASSES: dict[str, tuple[Sequence[str], Sequence[str], dict[str, Any], list[str]]] = {
    # case: folders of train and val, arguments of the config, what the errors name
    'right': ('abcdef', 'abcdef', {'heads': 6}, []),
    'a class that val lacks': ('abc', 'ac', {'heads': 3}, ['val_dataloader', 'train_dataloader', 'b']),
    'a class that val lacks, ours': ('abc', 'ac', {'heads': 3, 'kind': 'LabelledImageFolder'}, []),
    'a class that only val has': ('ac', 'abc', {'heads': 2}, ['b']),
    'a class that only val has, ours': ('ac', 'abc', {'heads': 2, 'kind': 'LabelledImageFolder'}, ['val: b']),
    'a hidden folder': (['.ipynb_checkpoints', 'a', 'b'], 'ab', {'heads': 3}, ['.ipynb_checkpoints']),
    'a hidden folder, ours': (['.cache', 'a', 'b'], 'ab', {'heads': 2, 'kind': 'LabelledImageFolder'}, []),
    'one class': ('a', 'a', {'heads': 1}, ['1 class']),
    'too many outputs': ('abc', 'abc', {'heads': 1000}, ['head.num_classes=1000', 'has 3']),
    'too few outputs': ('abc', 'abc', {'heads': 2}, ['head.num_classes=2', 'has 3']),
    'names in another order': ('abc', 'abc', {'heads': 3, 'metainfo': {'classes': 'bac'}}, ['order', 'b, a, c']),
    'no images': ((), (), {'heads': 3}, ['train_dataloader']),
}  # fmt: skip


@pytest.mark.parametrize('case', CLASSES)
def test_class_folders(tmp_path: Path, case: str) -> None:
    train, val, arguments, named = CLASSES[case]
    (tmp_path / 'train').mkdir()
    (tmp_path / 'val').mkdir()
    folders(tmp_path, 'train', *train)
    folders(tmp_path, 'val', *val)
    cfg = classification(tmp_path, **arguments)
    _, errors = check(cfg)
    assert bool(errors) == bool(named), errors
    for text in named:
        assert text in errors
    if not named:  # a top-5 accuracy needs five classes
        enough = arguments['heads'] >= 5
        assert cfg.val_evaluator.topk == cfg.model.head.topk == ((1, 5) if enough else (1,))


def test_all_errors_are_named(tmp_path: Path) -> None:
    write(tmp_path, [mask(1, 2, 3, 4, 5)])
    with pytest.raises(DataError) as caught:
        raise_errors(check_config(segmentation(tmp_path)))
    lines = describe(caught.value).splitlines()
    assert [number for number in range(9) if any(f'value {number} ' in line for line in lines)] == [3, 4, 5]
    assert len(lines) == 3


def test_labels_of_an_annotation_file(tmp_path: Path) -> None:
    folders(tmp_path, 'train', 'a', 'b')
    (tmp_path / 'list.txt').write_text('train/a/0.JPG 0\ntrain/b/0.JPG 2\n')
    cfg = classification(tmp_path, 2, None, ann_file='list.txt', metainfo={'classes': ('a', 'b')})
    cfg.train_dataloader.dataset.data_prefix = ''
    assert 'labels 2 are no class' in check(cfg)[1]


def test_probe_folders(tmp_path: Path) -> None:
    """The two data sets of the online probe have the same classes, whatever the head of the model is."""
    folders(tmp_path, 'train', *'abc')
    folders(tmp_path, 'val', *'ac')
    cfg = classification(tmp_path, 3, None)
    parts = {part: {'type': 'CustomDataset', 'data_root': str(tmp_path / part)} for part in ('train', 'val')}
    cfg.custom_hooks = [{'type': 'OnlineProbeHook', 'train': parts['train'], 'test': parts['val']}]
    errors = check(cfg)[1]
    assert 'custom_hooks.0.test' in errors
    assert 'b' in errors


@pytest.mark.parametrize('damage', ['cut', 'empty', 'text'])
def test_unreadable_images(tmp_path: Path, damage: str) -> None:
    folders(tmp_path, 'train', 'a', 'b')
    path = tmp_path / 'train/b/0.JPG'
    path.write_bytes({'cut': path.read_bytes()[:300], 'empty': b'', 'text': b'hello' * 9}[damage])
    errors = check(classification(tmp_path, 2, None))[1]
    assert 'b/0.JPG' in errors
    assert '1 of 2' in errors


def unlabelled(root: Path, images: int, **loader: Any) -> Config:
    root.mkdir(exist_ok=True)
    for number in range(images):
        Image.new('RGB', SIZE).save(root / f'{number}.png')
    source = {'type': 'UnlabelledImageFolder', 'data_root': str(root)}
    return Config({'default_scope': 'mmpretrain', 'train_dataloader': {'dataset': source, **loader}})


def test_fewer_images_than_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors(**loader: Any) -> str:
        return check(unlabelled(tmp_path, 5, **loader))[1]

    assert errors(batch_size=5, drop_last=True) == ''
    assert errors(batch_size=6, drop_last=False) == ''
    assert errors(batch_size=6, drop_last=True, sampler={'type': 'InfiniteSampler'}) == ''
    for number in ('batch_size=6', '5 images'):
        assert number in errors(batch_size=6, drop_last=True)
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert '3 x 2' in errors(batch_size=3, drop_last=True)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert str(tmp_path) in check(unlabelled(tmp_path, 0, batch_size=1))[1]


@pytest.mark.parametrize(('batch', 'images', 'fails'), [(1, 4, True), (2, 5, True), (2, 4, False)])
def test_a_batch_of_one_with_batch_norm(tmp_path: Path, batch: int, images: int, fails: bool) -> None:
    cfg = unlabelled(tmp_path, images, batch_size=batch, drop_last=False)
    cfg.model = {'decode_head': {'type': 'UPerHead', 'norm_cfg': {'type': 'BN'}}}
    assert ('batch norm' in check(cfg)[1]) == fails


def test_more_instances_than_the_model_finds() -> None:
    report = DataReport('train_dataloader.dataset', {'most_instances': 120})
    check_most_instances({'model': {'test_cfg': {'rpn': {'max_per_img': 1000}, 'rcnn': {'max_per_img': 100}}}}, report)
    assert len(report.warnings) == 1
    assert 'rcnn.max_per_img=100' in report.warnings[0]
    assert '120' in report.warnings[0]


def test_kinds_of_images(tmp_path: Path) -> None:
    """Modes, sides and turned photographs are counted."""
    cfg = unlabelled(tmp_path, 3, batch_size=1)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new('L', (30, 20)).save(tmp_path / 'grey.jpg', exif=exif)
    facts = check(cfg)[0][1].facts
    assert facts['modes'] == {'RGB': 3, 'L': 1}
    assert (facts['shortest_side'], facts['longest_side'], facts['turned_by_exif']) == (6, 30, 1)


def test_nothing_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second check reads only the masks and images that have changed."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    read: list[str] = []

    def spied(function: Callable) -> Callable:
        return lambda path, *rest: (read.append(Path(path).name), function(path, *rest))[1]

    for name in ('label_checks.read_mask', 'scan.find_fault'):
        module, function = name.split('.')
        target = __import__(f'randsac_mm.datasets.{module}', fromlist=[function])
        monkeypatch.setattr(target, function, spied(getattr(target, function)))
    data = tmp_path / 'data'
    write(data, [mask(1, 2), mask(1, 2)])
    cfg = segmentation(data)
    first = check(cfg)[0][1].facts
    assert sorted(read) == ['0.jpg', '0.png', '1.jpg', '1.png']
    read.clear()
    assert check(cfg)[0][1].facts == first
    assert read == []
    Image.fromarray(mask(1, 1, 1, 2)).save(data / 'masks/train/1.png')
    assert check(cfg)[0][1].facts['classes']['sea']['pixels'] == 4
    assert read == ['1.png']
    for memory in (tmp_path / 'cache').rglob('*.json'):
        memory.write_text('[')  # a damaged memory costs time, and nothing else
    assert check(cfg)[0][1].facts['classes']['sea']['pixels'] == 4


def ignores_interrupts(path: str) -> list[bool]:
    return [signal.getsignal(signal.SIGINT) == signal.SIG_IGN]


def test_an_interrupt_is_left_to_the_first_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sends Ctrl-C to all; those that read files would each write a traceback."""
    monkeypatch.setattr(scan, '_FEW', 0)  # processes also for one file
    (tmp_path / 'a.png').touch()
    assert scan.scan_files('test', [str(tmp_path / 'a.png')], ignores_interrupts) == [[sys.platform == 'linux']]
