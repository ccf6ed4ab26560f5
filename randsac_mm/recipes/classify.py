"""Classification of a user's images in class folders: fine-tuning of a pre-trained encoder."""

from pathlib import Path

from randsac_mm.datasets import LabelledImageFolder
from randsac_mm.datasets.data_report import name_some
from randsac_mm.export.encoder import Encoder

from .downstream import Found, choose_side

HELD_OUT = ('val', 'validation', 'valid', 'test')  # names of what to validate on, beside train


def look_at_classes(encoder: Encoder, data: Path) -> Found:
    """Look at labelled images: ``train/CLASS/IMAGE`` and, in a folder of ``HELD_OUT``, the same to validate on.

    Or ``CLASS/IMAGE``, also in ``train``: then every fifth image validates, see ``LabelledImageFolder``.

    Raises:
        FileNotFoundError: If there is no such folder, or no image.
        ValueError: If there are less than two classes.
    """
    if not data.is_dir():
        raise FileNotFoundError(f'{data} is not a folder: name that of the class folders, or of train/ and val/')
    root, held_out = data.resolve(), next((name for name in HELD_OUT if (data / name).is_dir()), None)
    if held_out is None and (data / 'train').is_dir():
        root = root / 'train'
    parts = [dict(split='train'), dict(split=held_out or 'val')]
    train, val = (LabelledImageFolder(str(root), **part) for part in parts)
    classes, size = train.metainfo['classes'], choose_side('classify', 0, encoder)
    variables = dict(data_root=str(root), classes=classes, train=parts[0], val=parts[1], size=size, images=len(train))
    # A fifth or a half of an image under 32 px often misses what is in it.
    smallest = 0.8 if size < 32 else 0.2
    variables |= dict(short_side=size, crops=(smallest, 1.0)) if size < 96 else dict(short_side=size * 8 // 7)
    text = f'{len(train):,} images to train on, {len(val):,} to validate on, {len(classes)} classes: '
    model = f'a linear layer on the averaged tokens, trained with the encoder on crops of {size} px'
    return Found(len(train), variables, text + name_some(classes), model)
