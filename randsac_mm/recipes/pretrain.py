"""Pre-training of a folder of images: its config, and in words what was decided."""

import datetime
from pathlib import Path

import jinja2
import torch

from randsac_mm.engine.time_budget import format_duration

from .look import Images, Labelled, look_at_images, look_at_labels, measure_pixels
from .rules import IMAGENET, Decision, decide
from .training import begin_run, run_recipe


def pretrain(
    folder: Path,
    labelled: Path | None = None,
    arch: str | None = None,
    seconds: float | None = None,
    epochs: int | None = None,
    run: Path | None = None,
) -> None:
    """Look at a folder of images, decide by rules, and pre-train, see :func:`~randsac_mm.recipes.run_recipe`.

    Args:
        folder: The images, of any nesting.
        labelled: Class folders for the online probe.
        arch: A key of :data:`~randsac_mm.recipes.rules.ARCHS`; default: by rule.
        seconds: Time for the whole process.
        epochs: Passes over the images; default: by rule.
        run: The work directory; default: ``work_dirs/`` and the name of the folder.

    Raises:
        OSError: If a folder is missing or unreadable.
        ValueError: If there are too few images, or the work directory contains a run.
    """
    folder = folder.expanduser().resolve()
    run = run or Path('work_dirs', folder.name)
    begin_run(run)
    images = look_at_images(folder)
    probe = None if labelled is None else look_at_labels(labelled.expanduser().resolve())
    decision = decide(images, arch)
    text = write_config(images, decision, probe, seconds, epochs)
    task = f'classify {labelled}' if labelled else 'segment DATA --classes NAME NAME'
    commands = [
        f'randsac-mm embed {run} {folder} --out features.npz',
        f'randsac-mm {task} --from {run}',
        f'randsac-mm evaluate {run} --data {labelled or "LABELLED"}',
    ]
    run_recipe(text, run, seconds, _describe(images, decision, probe), commands)


def write_config(
    images: Images,
    decision: Decision,
    probe: Labelled | None = None,
    seconds: float | None = None,
    epochs: int | None = None,
) -> str:
    """Return the text of the config."""
    mean, std = measure_pixels(images.folder, decision.channels) if decision.measured else IMAGENET
    options = dict(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    page = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=False, **options)
    page.filters['duration'] = format_duration
    values = decision._asdict() | dict(
        epochs=epochs or decision.epochs, mean=mean, std=std, images=images, probe=probe, seconds=seconds
    )
    gpu, today, grid = torch.cuda.is_available(), datetime.date.today(), decision.size.image // decision.size.patch
    return page.get_template('pretrain.jinja').render(values, gpu=gpu, today=today, grid=grid)


def _describe(images: Images, decision: Decision, probe: Labelled | None) -> list[str]:
    size = decision.size
    name = 'a small ViT' if decision.tiny else f'ViT-{decision.arch[-1].upper()}'
    grid, kind = size.image // size.patch, 'squares' if 'Square' in size.partition else 'blobs'
    lines = [
        f'Data       {images.folder}: {images.describe()}',
        f'Model      {name} for {images.count:,} images of this size: crops of {size.image} px, {grid} x {grid} '
        f'patches of {size.patch} px, in {" and ".join(map(str, size.hierarchy))} {kind}',
    ]
    if probe is not None:
        lines.append(f'Probe      {len(probe.classes)} classes of {probe.folder}, ten times during the training')
    return lines
