"""The first steps of every pipeline, images and masks, and the rewriting of configs that use others."""

import logging
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.logging import print_log

from randsac_mm.registry import register

from .images import UnreadableImageError, printable, read_image, read_mask

# Values of the libraries' options that ours have as well (first line), or that change nothing.
_OPTIONS: dict[str, tuple] = {
    **dict(color_type=('color', 'grayscale'), reduce_zero_label=(None, True, False)),
    **dict(imdecode_backend=('cv2', 'pillow', None), to_float32=(False,), ignore_empty=(False,)),
    **dict.fromkeys(['backend_args', 'file_client_args'], (None, {'backend': 'disk'}, {'backend': 'local'})),
}


@register('TRANSFORMS', everywhere=True)
class LoadImageStrict(BaseTransform):
    """Load ``results['img_path']`` completely, or raise an error that names the file.

    It takes the place of ``LoadImageFromFile`` in any library, with the same keys and channel order (BGR), but reads by
    :func:`~randsac_mm.datasets.images.read_image`: truncated files are errors, transparency is put on white.

    Required key: ``img_path``. Added keys: ``img``, uint8, (H, W, 3) in BGR or (H, W); ``img_shape`` and ``ori_shape``,
    both (H, W).

    Args:
        color_type: ``'color'`` for three channels, ``'grayscale'`` for one.

    Raises:
        ValueError: If ``color_type`` is neither of the two.
    """

    def __init__(self, color_type: str = 'color') -> None:
        super().__init__()
        if color_type not in ('color', 'grayscale'):
            raise ValueError(f"color_type={color_type!r} must be 'color' or 'grayscale'")
        self.color_type = color_type

    def transform(self, results: dict) -> dict:
        """Add the image to ``results``; raise UnreadableImageError if it cannot be read."""
        try:
            image = read_image(results['img_path'])
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error}. Repair or remove the file; UnlabelledImageFolder with check='decode' skips such files"
            ) from error
        image = mmcv.rgb2bgr(image) if self.color_type == 'color' else mmcv.rgb2gray(image)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:  # part of what identifies a cache
        return f'{type(self).__name__}(color_type={self.color_type!r})'


@register('TRANSFORMS', everywhere=True)
class LoadMaskStrict(BaseTransform):
    """Load ``results['seg_map_path']``, the class of each pixel, by :func:`~randsac_mm.datasets.images.read_mask`.

    It takes the place of mmseg's ``LoadAnnotations``. With ``mask_values`` in ``results`` (value in the file -> index
    of the class, or 255 for none) other values are errors; without it ``reduce_zero_label`` and ``label_map`` work as
    in mmseg, and values above 255 stay above 255.

    Required keys: ``seg_map_path``, without which nothing is done, as in prediction; ``ori_shape``. Added key:
    ``gt_seg_map``, (H, W), uint8, or int32 if a value is above 255.

    Args:
        reduce_zero_label: What the data set says about it, as in mmseg; None: whatever it says.
    """

    def __init__(self, reduce_zero_label: bool | None = None) -> None:
        super().__init__()
        self.reduce_zero_label = reduce_zero_label

    def transform(self, results: dict) -> dict:
        """Add the mask to ``results``; raise ValueError for a wrong size or value."""
        path = results.get('seg_map_path')
        if path is None:
            return results
        mask, size, reduce = read_mask(path), tuple(results['ori_shape'][:2]), bool(results.get('reduce_zero_label'))
        if mask.shape != size:
            turned = 'the image is turned by EXIF, the mask fits its raw pixels: turn it the same way'
            advice = turned if mask.shape == size[::-1] else 'masks and images must have one size'
            raise ValueError(f'{printable(path)}: mask of {mask.shape}, image of {size} (height, width); {advice}')
        if self.reduce_zero_label not in (None, reduce):
            raise ValueError(f'reduce_zero_label={self.reduce_zero_label} in the pipeline, {reduce} in the data set')
        if results.get('mask_values') is not None:
            mask = _number(mask, results['mask_values'], path)
        elif reduce:
            mask = np.select([mask == 0, mask < 255], [np.uint8(255), mask - 1], mask).astype(mask.dtype)
        stored = mask.copy()
        for old, new in (results.get('label_map') or {}).items():
            mask[stored == old] = new
        results['gt_seg_map'] = mask
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results


def _number(mask: np.ndarray, values: dict[int, int], path: str) -> np.ndarray:
    """Replace values by indices of classes, uint8; raise ValueError for a value that is none of them."""
    table = np.full(max(values) + 2, -1, np.int16)
    table[list(values)] = list(values.values())
    labels = table[np.minimum(mask.astype(np.int32), len(table) - 1)]
    if labels.min() < 0:
        counts = zip(*np.unique(mask[labels < 0], return_counts=True), strict=True)
        found = ', '.join(f'{value} in {count} pixels' for value, count in list(counts)[:5])
        raise ValueError(
            f'{printable(path)}: value {found} is none of {sorted(values)}: add it to values or unlabelled'
        )
    return labels.astype(np.uint8)


def use_strict_readers(cfg: Config) -> None:
    """Make all pipelines of a config read by :class:`LoadImageStrict` and, of mmseg, :class:`LoadMaskStrict`, in place.

    They replace ``LoadImageFromFile`` of any scope and mmseg's ``LoadAnnotations``. One with options that ours do not
    have, such as ``to_float32=True``, stays, with a warning in the log.
    """
    _replace_readers(cfg, cfg.get('default_scope'))


def _replace_readers(node: Any, scope: str | None) -> None:
    if isinstance(node, dict) and 'type' in node:
        kind = node['type']
        if isinstance(kind, type):  # in Python-style configs
            kind = f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
        library, _, name = str(kind).rpartition('.')
        image, mask = name == 'LoadImageFromFile', name == 'LoadAnnotations' and (library or scope) == 'mmseg'
        other = [
            f'{key}={value!r}' for key, value in node.items() if key != 'type' and value not in _OPTIONS.get(key, ())
        ]
        if (image or mask) and other:
            print_log(f'{name}({", ".join(other)}) is not replaced by a strict reader', 'current', logging.WARNING)
        elif image or mask:
            kept = {key: node[key] for key in ('color_type', 'reduce_zero_label') if key in node}
            node.clear()
            node.update(type='LoadImageStrict' if image else 'LoadMaskStrict', **kept)
    for value in node.values() if isinstance(node, Config | dict) else node:
        if isinstance(value, dict | list | tuple):
            _replace_readers(value, scope)
