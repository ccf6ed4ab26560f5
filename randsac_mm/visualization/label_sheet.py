"""A sheet of samples of a data set with their labels drawn, so that people can look."""

import colorsys
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
from randsac_mm.datasets.data_report import DataReport, find_datasets

from .figures import DPI, INK, save_figure, show

_SAMPLES, _COLUMNS = 12, 4
_SIDE, _LEGEND = 300, 25  # pixels of a panel, classes that the legend names


def draw_label_sheets(cfg: Config, reports: Sequence[DataReport], folder: Path) -> list[Path]:
    """Draw twelve samples of every data set with class, mask or instances, and the counts of each class.

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
    names = list(classes)
    # Neighbouring labels get hues far from each other.
    colours = np.array([colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.9, 0.85) for label in range(len(names))])
    chosen = np.unique(np.linspace(0, len(entries) - 1, _SAMPLES).astype(int))
    rows = -(-len(chosen) // _COLUMNS)
    size = (_COLUMNS + 1) * _SIDE / DPI, max(rows, 2) * _SIDE / DPI
    figure = Figure(figsize=size, dpi=DPI, layout='constrained')
    panels = figure.subplots(rows, _COLUMNS + 1, squeeze=False)
    for axes in panels.ravel():
        axes.axis('off')
    for axes, number in zip(panels[:, :_COLUMNS].ravel(), chosen, strict=False):
        _draw_sample(axes, entries[number], names, colours)
    common = sorted(range(len(names)), key=lambda label: list(classes[names[label]].values())[::-1], reverse=True)
    lines = [(f'{len(entries):,} images, {len(names)} classes', INK)]
    for label in common[:_LEGEND]:
        counts = ', '.join(f'{count:,} {unit}' for unit, count in classes[names[label]].items())
        lines.append((f'{names[label]}: {counts}', colours[label]))
    for number, (line, colour) in enumerate(lines):
        panels[0, -1].text(0, 1 - number * 0.07, line, color=colour, size=8, va='top', clip_on=False)
    return save_figure(figure, path)


def _draw_sample(axes: Axes, entry: Mapping[str, Any], names: list[str], colours: np.ndarray) -> None:
    image = read_image(entry['img_path'])
    size, title = image.shape[:2], Path(entry['img_path']).name
    show(axes, image, size)
    if isinstance(entry.get('gt_label'), int):
        title = f'{names[entry["gt_label"]]} ({title})'
    if entry.get('seg_map_path'):
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
            from pycocotools.mask import decode, frPyObjects  # only detection needs it

            pixels = decode(frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask)
            show(axes, np.concatenate([np.broadcast_to(colour, (*size, 3)), 0.4 * pixels[..., None]], 2), size)
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0), aspect='equal')
    axes.set_title(title, fontsize=7, pad=3, color=INK)
