"""Classification of a user's images in class folders: fine-tuning of a pre-trained encoder."""

from pathlib import Path
from typing import Any

from randsac_mm.datasets import LabelledImageFolder
from randsac_mm.datasets.data_report import name_some

from . import downstream

HELD_OUT = ('val', 'validation', 'valid', 'test')  # beside train


def make_classification(data: Path, run: str) -> downstream.Recipe:
    """Look at labelled images, and make the config of a training on them.

    Args:
        data: Their folder, see :func:`find_parts`.
        run: The pre-training.

    Raises:
        FileNotFoundError: If there is no such run, or no image.
        ValueError: If there are less than two classes, or the encoder does not suit.
    """
    encoder = downstream.read_pretraining(run)
    root, parts = find_parts(data)
    train, val = (LabelledImageFolder(str(root), **part) for part in parts)
    classes, size = (
        train.metainfo['classes'],
        downstream.choose_side('classify', 0, encoder.backbone.img_size, encoder.backbone.patch_size),
    )
    length = downstream.choose_length('classify', len(train))
    title = f'Classification of {root}, by `randsac-mm classify`; `randsac-mm train` runs this file.'
    values = dict(data_root=str(root), classes=classes, train=parts[0], val=parts[1], size=size)
    values |= dict(short_side=size, crops=(0.2, 1.0)) if size < 96 else dict(short_side=size * 8 // 7)
    variables = {**values, **length, **downstream.describe_encoder(encoder)}
    config = downstream.fill_config('finetune/finetune_vit-s_own.py', title, variables)
    lines = [
        f'Data: {len(train):,} images to train on, {len(val):,} to validate on, {len(classes)} classes '
        f'({name_some(classes)})',
        f'Model: a linear layer on the averaged tokens, trained with the encoder on crops of {size} px',
        *downstream.describe_training(encoder, length, len(train)),
    ]
    return downstream.Recipe(config, lines, {'accuracy/top1': 'accuracy {:.1f} %'})


def find_parts(data: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Return a folder, and the arguments of ``LabelledImageFolder`` that choose images to train and to validate on.

    ``data`` contains ``train/CLASS/IMAGE`` and, under a name in ``HELD_OUT``, the same to validate on; else, in it or
    in its ``train``, ``CLASS/IMAGE``, of which every fifth image validates.
    """
    if not data.is_dir():
        raise FileNotFoundError(f'{data} is not a folder: name that of the class folders, or of train/ and val/')
    root = data.resolve()
    held_out = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out is None and (root / 'train').is_dir():
        root = root / 'train'
    return root, [dict(split='train'), dict(split=held_out or 'val')]
