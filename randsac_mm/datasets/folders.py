"""Folders of images: without labels, with a folder for each class, or with a mask for each image."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from typing import Any

from mmengine.dataset import BaseDataset as EngineDataset
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from randsac_mm.registry import register

from .data_report import name_some
from .images import IMG_EXTENSIONS, printable, walk_files
from .scan import scan_images

MASK_EXTENSIONS = ('.bmp', '.gif', '.pgm', '.png', '.tif', '.tiff')
_PARTS = ('train', 'val')  # of a folder of classes without folders of splits
_NO_CLASS = 255  # index of unlabelled pixels in models, padding and evaluators


class _Folder:
    """Files below folders: found, checked, never replaced; ``skipped`` has the names of others for each reason."""

    def __init__(self, data_root: str, pipeline: Sequence = (), check: str = 'header', **kwargs: Any) -> None:
        if check not in ('header', 'decode', 'none'):
            raise ValueError(f"check={check!r} must be 'header', 'decode' or 'none'")
        self.check = check
        self.skipped: dict[str, list[str]] = {'unreadable': []}
        super().__init__(ann_file='', data_root=os.path.expanduser(data_root), pipeline=pipeline, **kwargs)

    def __getitem__(self, idx: int) -> dict:
        """Return the image at ``idx`` after the pipeline; raise ValueError if that returns None."""
        if (data := self.prepare_data(idx)) is None:
            raise ValueError(f'the pipeline returned None for {printable(self.get_data_info(idx)["img_path"])}')
        return data

    def _find(self, folder: str, key: str, endings: tuple = IMG_EXTENSIONS, skip: Sequence = ()) -> list[str]:
        """Return the files below a folder that end so, relative to it and sorted; note all others."""
        if not os.path.isdir(folder):
            raise FileNotFoundError(f'{key}={folder!r} is not a folder: set it to that of your images')
        files = sorted(walk_files(folder, lambda e: self._skip('unreadable', e.filename, e.strerror), skip))
        for name in files:
            if not name.lower().endswith(endings):
                self._skip('of other types', os.path.join(folder, name))
        return [name for name in files if name.lower().endswith(endings)]

    def _skip(self, kind: str, path: str, *reason: str) -> None:
        self.skipped.setdefault(kind, []).append(': '.join([printable(os.path.relpath(path, self.data_root)), *reason]))

    def _finish(self, entries: list[dict]) -> list[dict]:
        """Return the entries whose files are sound, and log their number and what is skipped."""
        if self.check != 'none':
            found = scan_images([entry['img_path'] for entry in entries], decode=self.check == 'decode')
            for entry, facts in zip(entries, found, strict=True):
                if facts.fault:
                    self._skip('unreadable', entry['img_path'], facts.fault)
            entries = [entry for entry, facts in zip(entries, found, strict=True) if not facts.fault]
        if others := self.skipped.pop('of other types', []):
            counts = Counter(os.path.splitext(name)[1].lower() or 'no ending' for name in others).most_common(5)
            self.skipped[f'of other types ({", ".join(f"{ending} {count:,}" for ending, count in counts)})'] = others
        total = sum(map(len, self.skipped.values()))
        kinds = [f'  {len(names):,} {kind}: {name_some(names)}' for kind, names in self.skipped.items() if names]
        text = '\n'.join([f'{self.data_root}: {len(entries):,} images, {total:,} skipped', *kinds])
        print_log(text, 'current', logging.WARNING if total else logging.INFO)
        if not entries:
            counts = ' and '.join(f'{len(names):,} {kind}' for kind, names in self.skipped.items())
            raise FileNotFoundError(f'no image of {self.data_root!r} can be used: {counts}; endings: {IMG_EXTENSIONS}')
        return entries


@register('DATASETS')
class UnlabelledImageFolder(_Folder, BaseDataset):
    """Every readable image below a folder, of any nesting.

    Files are sorted by path. Hidden files and folders (``.name``) are skipped, links are followed, a folder that is
    reached twice is read once. Files that cannot be used are counted in the log, the first ten of a kind by name, and
    skipped. A file that fails later is an error with its name; mmengine's own data sets take another sample instead.

    Args:
        data_root: The folder. It must be on a local or mounted file system.
        pipeline: Transforms, or their configs, applied to ``dict(img_path=..., sample_idx=...)``. Begin with
            ``dict(type='LoadImageStrict')``.
        check: How to check each file at the start.
            ``'header'``: read type and size, and the mark at the end, 0.1 to 0.2 ms a file. Files without such a mark
            (truncated, or neither JPEG nor PNG) are decoded.
            ``'decode'``: decode every file, some milliseconds each. This finds all that cannot be read.
            ``'none'``: open no file; for a folder known to be sound.
        **kwargs: Further arguments of mmengine's ``BaseDataset``: ``indices``, ``serialize_data``, ``lazy_init``.

    Raises:
        FileNotFoundError: If ``data_root`` is not a folder, or contains no readable image.
        ValueError: If ``check`` is none of the three.
    """

    def load_data_list(self) -> list[dict]:
        """Find and check the images."""
        names = self._find(self.data_root, 'data_root')
        return self._finish([{'img_path': os.path.join(self.data_root, name)} for name in names])


@register('DATASETS')
class LabelledImageFolder(_Folder, BaseDataset):
    """Images in a folder for each class, ``DATA_ROOT/SPLIT/CLASS/.../IMAGE``, with ``gt_label``.

    The classes of every split are those of ``train``, so that a class that a split lacks shifts no label: the visible
    folders of ``DATA_ROOT/train`` that contain an image. Their images are found, checked and skipped as in
    :class:`UnlabelledImageFolder`. Without folders of splits, ``DATA_ROOT/CLASS/.../IMAGE``, every fifth image of each
    class belongs to ``'val'``, the others to ``'train'``.

    Args:
        data_root: The folder of the splits.
        split: Name of a split's folder; default: ``data_prefix``, as in mmpretrain's data sets, or ``'train'``.
        classes: The classes in the order of their labels; default: sorted.
        **kwargs: Further arguments of :class:`UnlabelledImageFolder`.

    Raises:
        FileNotFoundError: If ``train`` or the split is not a folder, or the split contains no readable image.
        ValueError: If a folder is unreadable or no class, or ``classes`` are not two or more folders of ``train``.
    """

    def __init__(self, data_root: str, split: str = '', classes: Sequence | None = None, **kwargs: Any) -> None:
        self.split = split or kwargs.pop('data_prefix', 'train')
        super().__init__(data_root, data_prefix=self.split, classes=classes and _check_names(classes), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find the classes of ``train``, and find and check the images of the split."""
        folder, train = (os.path.join(self.data_root, split) for split in (self.split, 'train'))
        if self.split in _PARTS and not any(os.path.isdir(os.path.join(self.data_root, part)) for part in _PARTS):
            folder = train = self.data_root
            known = self._find_by_class(train)
            found = _choose_part(known, self.split == 'train')
        else:
            known, found = self._find_by_class(train), self._find_by_class(folder)
        classes = self._metainfo.setdefault('classes', tuple(sorted(set(known.values()))))
        if len(classes) < 2:
            raise ValueError(f'{train} has {len(classes)} folders with images: two or more are needed, one for a class')
        if absent := set(classes) - set(known.values()):
            raise ValueError(f'{name_some(sorted(absent))} of classes have no image in {train}')
        if strange := set(found.values()) - set(classes):
            raise ValueError(f'{folder}: {name_some(sorted(strange))} are no classes; classes are {name_some(classes)}')
        labels = {name: label for label, name in enumerate(classes)}
        entries = self._finish([{'img_path': path, 'gt_label': labels[name]} for path, name in found.items()])
        if absent := sorted(set(range(len(classes))) - {entry['gt_label'] for entry in entries}):
            text = f'{folder} has no image of {len(absent)} of {len(classes)} classes; all keep their labels'
            print_log(f'{text}: {name_some([classes[label] for label in absent])}', 'current', logging.WARNING)
        return entries

    def _find_by_class(self, folder: str) -> dict[str, str]:
        """Return the class folder of each image of a split."""
        self.skipped = {'unreadable': []}
        names = self._find(folder, 'split')
        if self.skipped['unreadable']:  # perhaps a class
            raise ValueError(f'{self.data_root}: {self.skipped["unreadable"][0]}: make the folder readable, or hide it')
        found = {os.path.join(folder, name): name.split(os.sep)[0] for name in names if os.sep in name}
        empty = {name for name in next(os.walk(folder))[1] if name[0] != '.'} - {*found.values()}
        for name in [name for name in names if os.sep not in name] + sorted(empty):
            self._skip('in no class folder, or folders without images', os.path.join(folder, name))
        return found


@register('DATASETS', everywhere=True)
class SegmentationFolder(_Folder, EngineDataset):
    """Images, and a mask for each in another folder, of the same name but for the ending; for mmseg.

    Images are found, checked and skipped as in :class:`UnlabelledImageFolder`. Masks end in ``MASK_EXTENSIONS``; they
    are checked when they are read, and one that is damaged is an error.
    Samples have ``mask_values``, the index of the class of each value of the mask, for ``LoadMaskStrict``.

    Args:
        data_root: The folder that those of ``data_prefix`` are relative to.
        data_prefix: ``dict(img_path=..., seg_map_path=...)``, the folders of images and masks.
        classes: Names of 2 to 255 classes, in the order of their indices.
        values: Value of each class in masks; default: 0, 1, 2, ...
        unlabelled: Values in masks, one, several or None, of pixels of no class: index 255 for models and evaluators.
        palette: RGB colour of each class, 0 .. 255; default: different bright ones.
        part: Of folders without a split: ``'val'``, every fifth pair; ``'train'``, the others; None, all.
        **kwargs: Further arguments of :class:`UnlabelledImageFolder`.

    Raises:
        FileNotFoundError: If one of the two is not a folder, or no image has a mask.
        ValueError: If the arguments contradict each other, or two images or two masks have one name.
    """

    def __init__(
        self,
        data_root: str,
        data_prefix: dict,
        classes: Sequence[str],
        values: Sequence[int] | None = None,
        unlabelled: int | Sequence[int] | None = _NO_CLASS,
        palette: Sequence[Sequence[int]] | None = None,
        part: str | None = None,
        **kwargs: Any,
    ) -> None:
        classes, count = _check_names(classes), len(classes)
        values = range(count) if values is None else values
        unlabelled = () if unlabelled is None else (unlabelled,) if isinstance(unlabelled, int) else unlabelled
        palette = palette or [[int(255 * x) for x in hsv_to_rgb(i * 0.618034 % 1, 0.8, 1)] for i in range(count)]
        if not 2 <= count <= _NO_CLASS:
            raise ValueError(f'{count} classes: name 2 (such as background and yours) to {_NO_CLASS}')
        if not len(values) == len(set(values)) == len(palette) == count:
            raise ValueError(f'{count} classes need as many different values, not {values}, and colours of the palette')
        if both := sorted({*values} & {*unlabelled}):
            raise ValueError(f'{both} are in values and in unlabelled={unlabelled}: set unlabelled, such as to None')
        if set(data_prefix) != {'img_path', 'seg_map_path'}:
            raise ValueError(f'data_prefix={dict(data_prefix)} must be dict(img_path=..., seg_map_path=...)')
        if part not in (None, *_PARTS):
            raise ValueError(f'part={part!r} must be one of {_PARTS}, or None for all pairs')
        self.part = part
        data_prefix = {key: os.path.expanduser(folder) for key, folder in data_prefix.items()}
        self.mask_values = dict(zip(values, range(count), strict=True)) | dict.fromkeys(unlabelled, _NO_CLASS)
        super().__init__(data_root, data_prefix=data_prefix, metainfo=dict(classes=classes, palette=palette), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Find and check the images that have masks."""
        folders = self.data_prefix['img_path'], self.data_prefix['seg_map_path']
        if os.path.realpath(folders[0]) == os.path.realpath(folders[1]):
            raise ValueError(f'images and masks are both in {folders[0]!r}: put them in two folders, see data_prefix')
        images = self._find_by_stem('img_path', IMG_EXTENSIONS, folders)
        masks = self._find_by_stem('seg_map_path', MASK_EXTENSIONS, folders)
        for stem in sorted(images.keys() ^ masks.keys()):
            kind = 'images without a mask' if stem in images else 'masks without an image'
            self._skip(kind, images.get(stem) or masks[stem])
        pairs = {stem: '' for stem in images if stem in masks}
        if self.part is not None:
            if len(pairs) < 5:
                raise ValueError(f'{self.data_root}: {len(pairs)} images with masks; 5 are needed without a split')
            pairs = _choose_part(pairs, self.part == 'train')
        meta = dict(mask_values=self.mask_values, label_map=None, reduce_zero_label=False, seg_fields=[])
        return self._finish([{'img_path': images[s], 'seg_map_path': masks[s], **meta} for s in pairs])

    def _find_by_stem(self, key: str, endings: tuple, folders: Sequence[str]) -> dict[str, str]:
        """Return the files in one of the folders, by relative name without ending."""
        found: dict[str, str] = {}
        for name in self._find(self.data_prefix[key], f'data_prefix.{key}', endings, folders):
            stem, path = os.path.splitext(name)[0], os.path.join(self.data_prefix[key], name)
            if found.setdefault(stem, path) != path:
                raise ValueError(f'{printable(found[stem])} and {printable(path)} have one name: keep one of them')
        return found


def _choose_part(found: dict[str, str], train: bool) -> dict[str, str]:
    """Return four of five files of each class, or every fifth one, in the order of their names."""
    counts: Counter[str] = Counter()
    chosen = {}
    for path, name in found.items():
        counts[name] += 1
        if (counts[name] % 5 > 0) == train:
            chosen[path] = name
    return chosen


def _check_names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise ValueError(f'classes={classes!r} is one text, not several names: is a comma missing?')
    if len(set(classes)) < len(classes):
        raise ValueError(f'classes contain {name_some(sorted({c for c in classes if classes.count(c) > 1}))} twice')
    return tuple(classes)
