"""The quick start: pre-train on scikit-learn's digits, judge the frozen encoder, draw what happened."""

import copy
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import mmengine
import mmpretrain
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from randsac_mm.datasets import Digits
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.evaluation import LabelledImages, Scores, evaluate_backbone, judge_features
from randsac_mm.models import RandSAC
from randsac_mm.version import __version__
from randsac_mm.visualization import (
    animate_serialization,
    draw_loss_curve,
    draw_reconstruction,
    draw_serialization,
    serialize,
)

RASTER = dict(type='RasterSerialization', partition=dict(type='PatchPartition'))


def load_digits(split: str) -> LabelledImages:
    """Read one split of the digits, ``'train'`` or ``'test'``, whole: images (n, 1, 8, 8), float32."""
    digits = Digits(split=split)
    return LabelledImages(digits.images.float(), digits.labels)


def judge_encoder(model: RandSAC, train: LabelledImages, test: LabelledImages) -> Scores:
    """Classify held-out digits by the averaged tokens of a frozen encoder."""
    prepare = model.data_preprocessor
    return Scores(**evaluate_backbone(model, lambda images: prepare({'inputs': images})['inputs'], train, test))


def pretrain(
    config: Path, work_dir: Path, seed: int, raster: bool, epochs: int | None
) -> tuple[RandSAC, RandSAC, float]:
    """Pre-train once.

    Args:
        config: The config to run.
        work_dir: Where logs and checkpoints go.
        seed: Seed of weights, order of images and serializations.
        raster: Whether to predict patches in raster order, the baseline, instead of what the config says.
        epochs: Number of epochs, or None for the config's.

    Returns:
        The untrained model, the trained one, and the seconds that training took.
    """
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.randomness.seed = str(work_dir), seed
    cfg.experiment_name = work_dir.name
    if raster:
        cfg.model.data_preprocessor.serialization = RASTER
    if epochs is not None:
        set_epochs(cfg, epochs)
    runner = Runner.from_cfg(cfg)
    untrained = copy.deepcopy(runner.model)
    start = time.perf_counter()
    trained = runner.train()
    return untrained, trained, time.perf_counter() - start


def draw(model: RandSAC, test: LabelledImages, work_dir: Path, seed: int) -> dict[str, str]:
    """Draw a serialization (still and moving), reconstructions and the loss curve; return where they are."""
    paths = {
        name: work_dir / name for name in ('serialization.png', 'serialization.gif', 'reconstruction.png', 'loss.png')
    }
    inputs = model.data_preprocessor(dict(inputs=test.images[:5]))['inputs']
    grid = model.backbone.patch_resolution
    rank, groups = serialize(model.data_preprocessor.serialization, len(inputs), grid, seed)
    image = test.images[0].byte().expand(3, -1, -1).permute(1, 2, 0).numpy()  # (H, W, 3)
    draw_serialization(image, rank[0], grid, paths['serialization.png'], groups[0])
    animate_serialization(image, rank[0], grid, paths['serialization.gif'], groups=groups[0])
    draw_reconstruction(model, inputs, paths['reconstruction.png'], seed)
    draw_loss_curve(newest_scalars(work_dir), paths['loss.png'])
    return {name: str(path) for name, path in paths.items()}


def newest_scalars(work_dir: Path) -> Path:
    """Find the log of the latest run in a work directory, mmengine's ``scalars.json``."""
    return max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Average over seeds."""
    return Scores(*(statistics.mean(column) for column in zip(*scores, strict=True)))


def table(rows: dict[str, list[Scores]]) -> str:
    """Write scores as a table for people: the mean, and all seeds if there are several."""
    lines = [f'{"features":<34}{"kNN %":>8}{"linear %":>10}']
    for name, scores in rows.items():
        mean = mean_scores(scores)
        seeds = f'   (seeds: {", ".join(f"{s.knn:.1f}/{s.linear:.1f}" for s in scores)})' if len(scores) > 1 else ''
        lines.append(f'{name:<34}{mean.knn:>8.1f}{mean.linear:>10.1f}{seeds}')
    return '\n'.join(lines)


def run(config: Path, out: Path, seeds: list[int], with_raster: bool, epochs: int | None) -> dict:
    """Pre-train with every seed, judge, draw, and write ``summary.json``.

    Args:
        config: The config to run.
        out: Folder for everything that is written.
        seeds: One run for each; pictures are of the first.
        with_raster: Whether to run raster order beside it, at the same budget.
        epochs: Number of epochs, or None for the config's.

    Returns:
        The summary.
    """
    train, test = load_digits('train'), load_digits('test')
    raw = judge_features(train.images.flatten(1), train.labels, test.images.flatten(1), test.labels)
    rows: dict[str, list[Scores]] = {'raw pixels': [raw], 'encoder, untrained': [], 'encoder, RandSAC': []}
    if with_raster:
        rows['encoder, raster order'] = []
    seconds: list[float] = []
    pictures: dict[str, str] = {}
    for seed in seeds:
        work_dir = out / f'randsac_seed{seed}'
        untrained, trained, took = pretrain(config, work_dir, seed, False, epochs)
        rows['encoder, untrained'].append(judge_encoder(untrained, train, test))
        rows['encoder, RandSAC'].append(judge_encoder(trained, train, test))
        seconds.append(took)
        pictures = pictures or draw(trained, test, work_dir, seed)
        if with_raster:
            raster = pretrain(config, out / f'raster_seed{seed}', seed, True, epochs)[1]
            rows['encoder, raster order'].append(judge_encoder(raster, train, test))
    summary = {
        'command': shlex.join(sys.argv),
        'config': str(config),
        'data': f'scikit-learn digits: {len(train.labels)} to learn from, {len(test.labels)} held out',
        'epochs': epochs or Config.fromfile(config, import_custom_modules=False).max_epochs,
        'seeds': seeds,
        'training_seconds': [round(s, 1) for s in seconds],
        'hardware': f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads',
        'versions': {
            'randsac_mm': __version__,
            'torch': torch.__version__,
            'mmengine': mmengine.__version__,
            'mmpretrain': mmpretrain.__version__,
        },
        'accuracy_percent': {name: [s._asdict() for s in scores] for name, scores in rows.items()},
        'pictures': pictures,
        'checkpoints': str(out / f'randsac_seed{seeds[0]}'),
    }
    (out / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    print(f'\n{table(rows)}\n')
    return summary


def farewell(out: Path, summary: dict) -> str:
    """Say what the numbers mean, where everything is, and what to do next."""
    pictures = '\n'.join(f'  {path}' for path in summary['pictures'].values())
    return f"""\
Data: {summary['data']}. Encoders are frozen, their tokens averaged.
Raw pixels are strong here, because the digits are centred and of one size: what counts is how far pre-training,
which saw no label, lifts the encoder above the same encoder untrained.
Training took {summary['training_seconds'][0]:.0f} s.

Pictures:
{pictures}
Numbers:      {out / 'summary.json'}
Checkpoints:  {summary['checkpoints']}

Next:
  your own images   python tools/train.py configs/randsac/vit-b_folder.py \\
                        --cfg-options train_dataloader.dataset.data_root=/my/photos --auto-scale-lr
  CIFAR-10          python tools/prepare_cifar10.py && python tools/train.py configs/randsac/vit-t_cifar10.py
  ImageNet, 8 GPUs  bash tools/dist_train.sh configs/randsac/vit-b_in1k.py 8
  (with {sys.executable} as python, or after: source {Path(sys.prefix) / 'bin' / 'activate'})"""
