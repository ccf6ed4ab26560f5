"""A sheet of samples of a data set with their labels drawn, so that people can look."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from mmengine.config import Config
from mmengine.registry import DefaultScope

from randsac_mm.datasets import LoadMaskStrict, read_image
from randsac_mm.datasets.check import build_dataset
from randsac_mm.datasets.report import DataReport, find_datasets

from .figures import DPI, INK, rank_colours, save_figure, show

_COLUMNS, _ROWS, _SIDE, _LEGEND = 4, 3, 300, 30  # samples, pixels of a panel, classes that the legend names


def draw_label_sheets(cfg: Config, reports: Sequence[DataReport], folder: Path) -> list[Path]:
    """Draw twelve samples of every data set, evenly spaced, with class, mask or instances, and the number of each class.

    Args:
        cfg: The config.
        reports: What :func:`~randsac_mm.datasets.check.check_config` has returned; data sets with errors have no sheet.
        folder: Folder for the pictures.
    """
    sources = find_datasets(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        return [
            _draw_sheet(build_dataset(sources[report.name]), report, folder / f'{report.name}.png')
            for report in reports
            if report.facts.get('images') and not report.errors
        ]


def _draw_sheet(dataset: Any, report: DataReport, path: Path) -> Path:
    entries, classes = dataset.data_list, report.facts.get('classes', {})
    colours, names = rank_colours(len(classes)), list(classes)
    figure = Figure(figsize=((_COLUMNS + 1) * _SIDE / DPI, _ROWS * _SIDE / DPI), dpi=DPI, layout='constrained')
    panels = figure.subplots(_ROWS, _COLUMNS + 1)
    for axes in panels.ravel():
        axes.axis('off')
    chosen = np.unique(np.linspace(0, len(entries) - 1, _COLUMNS * _ROWS).astype(int))
    for axes, number in zip(panels[:, :_COLUMNS].ravel(), chosen, strict=False):
        _draw_sample(axes, entries[number], names, colours)
    lines = [f'{name}: ' + ', '.join(f'{n:,} {what}' for what, n in classes[name].items()) for name in names[:_LEGEND]]
    if len(names) > _LEGEND:
        lines.append(f'and {len(names) - _LEGEND} more classes')
    for number, line in enumerate([f'{len(entries):,} images', *lines]):
        colour = INK if not 1 <= number <= len(names) else colours[number - 1]
        panels[0, -1].text(0, 1 - number * 0.09, line, color=colour, size=8, va='top', clip_on=False)
    return save_figure(figure, path)


def _draw_sample(axes: Axes, entry: Mapping[str, Any], names: list[str], colours: np.ndarray) -> None:
    image = read_image(entry['img_path'])
    size, title = image.shape[:2], Path(entry['img_path']).name
    show(axes, image, size)
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0), aspect='equal')
    if isinstance(entry.get('gt_label'), int):
        title = f'{names[entry["gt_label"]]} ({title})'
    if 'seg_map_path' in entry:
        labels = LoadMaskStrict()({**entry, 'ori_shape': size, 'seg_fields': []})['gt_seg_map'].astype(int)
        known = labels < len(names)
        overlay = np.zeros((*size, 4))
        overlay[known] = np.concatenate([colours, np.full((len(names), 1), 0.6)], 1)[labels[known]]
        show(axes, overlay, size)
    for instance in entry.get('instances', ()):
        left, top, right, bottom = instance['bbox']
        colour, mask = colours[instance['bbox_label']], instance.get('mask')
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour))
        axes.text(left, top, names[instance['bbox_label']], size=7, color=colour, va='bottom')
        if isinstance(mask, list):
            for polygon in mask:
                axes.add_patch(Polygon(np.reshape(polygon, (-1, 2)), color=colour, alpha=0.4))
        elif mask:
            from pycocotools.mask import decode  # only detection needs it

            show(axes, np.concatenate([np.broadcast_to(colour, (*size, 3)), 0.4 * decode(mask)[..., None]], 2), size)
    axes.set_title(title, fontsize=7, pad=3, color=INK)
