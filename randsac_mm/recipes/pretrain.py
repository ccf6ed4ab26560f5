"""Pre-training of a folder of images: the text of its config, and what was decided in words."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import torch

from randsac_mm.engine.time_budget import format_duration

from .look import Images, look_at_images, look_at_labels, measure_pixels
from .rules import IMAGENET, TINY, TINY_DECODER, Decision, decide
from .run import begin_run, run_recipe

_TEXT = """\
# Pre-training on {folder}, by `randsac-mm pretrain` on {today}; the rules are in docs/recipes.md.
# Everything may be changed here. A run of a copy of this file writes to the folder of the copy.
# Command:   randsac-mm train config.py             continue:  randsac-mm train config.py --resume
_base_ = __import__('randsac_mm').config_path({base!r})
work_dir = '{{{{ fileDirname }}}}'

data_root = {folder!r}
num_images = {count}  # {images}
img_size, patch_size = {size.image}, {size.patch}  # px: {grid} x {grid} tokens
channels = {channels}
mean, std = {mean}, {std}  # {source}, 0 .. 255
partition = dict(type={size.partition!r}, hierarchy={size.hierarchy})  # segments, and groups of them
min_crop = {size.crop}  # smallest area of a crop, as a fraction of the image
batch_size = {batch}  # images in a step
base_lr = {lr}  # of 256 images
{length}
warmup_iters = max(1, max_iters // 20)
interval = max(1, max_iters // 10)  # steps between checkpoints{and_probes}

{arch}model = dict(
    backbone=dict({use_arch}img_size=img_size, patch_size=patch_size, in_channels=channels),{neck}
    head=dict(norm_pix={norm_pix}),
    data_preprocessor=dict(
        mean=mean,
        std=std,
        to_rgb=channels == 3,  # files are read as BGR
        serialization=dict(partition=dict(_delete_=True, **partition)),
    ),
)
train_pipeline = [
    dict(type='LoadImageStrict', color_type='color' if channels == 3 else 'grayscale'),
    dict(
        type='RandomResizedCrop',
        scale=img_size,
        crop_ratio_range=(min_crop, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
{flip}    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=batch_size,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
optim_wrapper = dict(type={wrapper!r}, optimizer=dict(lr=base_lr * batch_size / 256))  # {precision}
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=False, begin=0, end=warmup_iters),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=warmup_iters, end=max_iters, T_max=max_iters - warmup_iters),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=max(1, max_iters // 200)), checkpoint=dict(interval=interval, by_epoch=False)
)
auto_scale_lr = dict(base_batch_size=batch_size)
custom_hooks = []
"""
_PROBE = """
# The online probe: {classes} classes.
probe_images = {probe_images}  # to learn from; half as many to test
test_pipeline = [
    train_pipeline[0],
    dict(type='ResizeEdge', scale={resized}, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=img_size),
]
labelled = dict(type='LabelledImageFolder', data_root={folder!r}, pipeline=test_pipeline)
custom_hooks += [
    dict(
        type='OnlineProbeHook',
        train=dict(split='train', **labelled),
        test=dict(split={held_out!r}, **labelled),
        interval=interval,
        by_epoch=False,
        max_train=probe_images,
        max_test=max(20, probe_images // 2),
    )
]
"""
_BUDGET = """
# Ends the run with its time, whatever a step takes: without it max_iters steps are run.
reserve = 0  # seconds of it for the page of the run
custom_hooks += [dict(type='TimeBudgetHook', seconds={seconds:g}, reserve=reserve, interval=interval)]
"""


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
    decision = decide(images, arch)
    probe = None if labelled is None else (labelled.resolve(), *look_at_labels(labelled.resolve()))
    text = write_config(images, decision, probe, seconds, epochs)
    commands = [f'randsac-mm embed {run} {folder} --out features.npz']
    if labelled is not None:
        commands += [f'randsac-mm classify {labelled} --from {run}']
    else:
        commands += [f'randsac-mm segment DATA --classes NAME NAME --from {run}']
    commands += [f'randsac-mm evaluate {run} --data {labelled or "LABELLED"}']
    run_recipe(text, run, seconds, describe(images, decision, probe), commands)


def write_config(
    images: Images,
    decision: Decision,
    probe: tuple[Path, str, Sequence[str]] | None = None,
    seconds: float | None = None,
    epochs: int | None = None,
) -> str:
    """Return the text of the config; ``probe`` is a labelled folder, its held-out split, and its classes."""
    size = decision.size
    mean, std = measure_pixels(images.folder, decision.channels) if decision.measured else IMAGENET
    length = f'max_epochs = {epochs or decision.epochs}\nmax_iters = max(2, max_epochs * num_images // batch_size)'
    gpu = torch.cuda.is_available()
    text = _TEXT.format(
        folder=str(images.folder),
        today=datetime.date.today(),
        base=decision.base,
        count=images.count,
        images=images.describe(),
        size=size,
        grid=size.image // size.patch,
        channels=decision.channels,
        mean=mean,
        std=std,
        source='of these images' if decision.measured else 'of ImageNet',
        batch=decision.batch,
        lr=decision.lr,
        length=length if seconds is None else f'max_iters = 1000  # what fits in {format_duration(seconds)}',
        and_probes='' if probe is None else ' and probes',
        arch=f'arch = dict(_delete_=True, {_arguments(TINY)})\n' if decision.tiny else '',
        use_arch='arch=arch, ' if decision.tiny else '',
        neck=f'\n    neck=dict({_arguments(TINY_DECODER)}),' if decision.tiny else '',
        norm_pix=decision.norm_pix,
        flip="    dict(type='RandomFlip', prob=0.5),\n" if decision.flip else '',
        wrapper='AutocastOptimWrapper' if gpu else 'OptimWrapper',
        precision='bfloat16 where it is safe' if gpu else 'float32, as fits a CPU',
    )
    if probe is not None:
        small = size.image < 96
        text += _PROBE.format(
            folder=str(probe[0]),
            held_out=probe[1],
            classes=len(probe[2]),
            probe_images=5000 if small else 2000,
            resized='img_size' if small else 'img_size * 8 // 7',
        )
    return text + ('' if seconds is None else _BUDGET.format(seconds=seconds))


def describe(images: Images, decision: Decision, probe: tuple[Path, str, Sequence[str]] | None) -> list[str]:
    """Return what was decided and why, in two lines or three."""
    size, name = decision.size, 'small ViT' if decision.tiny else decision.arch.replace('vit', 'ViT').upper()
    grid, kind = size.image // size.patch, 'squares' if 'Square' in size.partition else 'blobs'
    lines = [
        f'Data       {images.folder}: {images.describe()}',
        f'Model      {name.replace("VIT", "ViT")} for {images.count:,} images of this size: crops of {size.image} px, '
        f'{grid} x {grid} patches of {size.patch} px, in {" and ".join(map(str, size.hierarchy))} {kind}',
    ]
    if probe is not None:
        lines.append(f'Probe      {len(probe[2])} classes of {probe[0]}, ten times during the training')
    return lines


def _arguments(values: dict[str, int]) -> str:
    return ', '.join(f'{key}={value}' for key, value in values.items())
