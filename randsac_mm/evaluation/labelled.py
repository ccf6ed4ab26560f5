"""Labelled training and test images of the data sets that encoders are judged on."""

from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from .judge import LabelledImages
from .online_data import load_images

_ENLARGED = 8 / 7  # of the shorter side before the central crop: 256 for 224 pixels
_TEST_FOLDERS = ('val', 'test')


class LabelledData(NamedTuple):
    """Hold a labelled data set in memory.

    Attributes:
        name: What and where it is, for people.
        train: Images to learn from, uint8, RGB or grey.
        test: Images to be judged on.
    """

    name: str
    train: LabelledImages
    test: LabelledImages


def load_labelled(
    where: str, size: tuple[int, int], channels: int = 3, subset: int | None = None, seed: int = 0
) -> LabelledData:
    """Read a labelled data set.

    Args:
        where: ``'digits'``, a folder with CIFAR-10 or CIFAR-100 in it (``cifar-10-batches-py``, ``cifar-100-python``),
            or one with ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE`` (or ``test/...``).
        size: Height and width of a folder's images in pixels, after a resize of the shorter side to 8/7 of the longer
            of the two, and a central crop. Digits and CIFAR stay as they are.
        channels: 1: a folder's images are read as grey ones. 3: in RGB.
        subset: How many training images to read, each class by its share. None: all. The test set stays whole.
        seed: Which ones.

    Returns:
        The images.

    Raises:
        FileNotFoundError: If there is no such folder, or no data set in it.
        ValueError: If the classes of the two folders differ, ``subset`` is below 1, or there are more images than fit
            in 4 GiB.
    """
    if subset is not None and subset < 1:
        raise ValueError(f'subset={subset} must be at least 1')
    name, train, test = _datasets(where, size, channels)
    is_bgr = train['type'] == 'CustomDataset' and channels == 3

    def load(dataset: dict, split: str, number: int | None) -> LabelledImages:
        images, labels = load_images(dataset, f'{split} set', number, seed, 2**32, 0, 1)
        return LabelledImages(images.flip(1) if is_bgr else images, labels)

    return LabelledData(name, load(train, 'training', subset), load(test, 'test', None))


def data_of(cfg: Config) -> str:
    """Say where the data set of a config is, in the words of :func:`load_labelled`.

    Raises:
        ValueError: If its training data set is none that has labels.

    Example:
        >>> data_of(Config(dict(train_dataloader=dict(dataset=dict(type='PreparedCIFAR10', data_root='data/cifar10')))))
        'data/cifar10'
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    kind = dataset.get('type')
    if kind == 'Digits':
        return 'digits'
    if kind in ('PreparedCIFAR10', 'CIFAR10', 'CIFAR100', 'ImageNet', 'CustomDataset') and dataset.get('data_root'):
        return dataset['data_root']
    raise ValueError(
        f'the training data set of the config is {kind}, which has no labels or no known place: name a labelled one, '
        "'digits' or a folder, by --data"
    )


def _datasets(where: str, size: tuple[int, int], channels: int) -> tuple[str, dict, dict]:
    """Give a name and the configs of training and test set."""
    if where == 'digits':
        return "scikit-learn's digits", dict(type='Digits', split='train'), dict(type='Digits', split='test')
    root = Path(where)
    for folder, kind, name in (
        ('cifar-10-batches-py', 'PreparedCIFAR10', 'CIFAR-10'),
        ('cifar-100-python', 'CIFAR100', 'CIFAR-100'),
    ):
        if (root / folder).is_dir():
            return (
                f'{name} in {where}',
                *(dict(type=kind, data_root=where, split=split) for split in ('train', 'test')),
            )
    held_out = next((folder for folder in _TEST_FOLDERS if (root / folder).is_dir()), None)
    if held_out is None or not (root / 'train').is_dir():
        raise FileNotFoundError(
            f"no labelled data in {where!r}: it must be 'digits', or a folder that holds cifar-10-batches-py, "
            'cifar-100-python, or train/CLASS/IMAGE and val/CLASS/IMAGE'
        )
    classes = {
        folder: sorted(p.name for p in (root / folder).iterdir() if p.is_dir()) for folder in ('train', held_out)
    }
    if not classes['train'] or classes['train'] != classes[held_out]:
        only = {
            folder: sorted(set(names) - set.intersection(*map(set, classes.values())))[:5]
            for folder, names in classes.items()
        }
        raise ValueError(
            f'{where}: train and {held_out} must have one folder for each class, the same ones; only in one: {only}'
        )
    height, width = size
    pipeline = [
        dict(type='LoadImageStrict', color_type='color' if channels == 3 else 'grayscale'),
        dict(
            type='ResizeEdge',
            scale=round(max(size) * _ENLARGED),
            edge='short',
            backend='pillow',
            interpolation='bicubic',
        ),
        dict(type='CenterCrop', crop_size=(width, height)),
    ]
    train, test = (
        dict(
            type='CustomDataset',
            data_root=where,
            data_prefix=folder,
            metainfo=dict(classes=classes['train']),
            pipeline=pipeline,
        )
        for folder in ('train', held_out)
    )
    return f'{len(classes["train"])} classes in {where}', train, test
