"""The quick start: pre-train on scikit-learn's digits, evaluate the frozen encoder, draw what happened."""

import copy
import statistics
import sys
import time
from functools import partial
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from randsac_mm.datasets import Digits
from randsac_mm.engine.origin import describe_origin
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.evaluation import LabelledImages, Scores, evaluate_backbone, evaluate_features
from randsac_mm.evaluation.features import normalise
from randsac_mm.files import write_json
from randsac_mm.locations import find_root
from randsac_mm.models import RandSAC
from randsac_mm.visualization import (
    animate_serialization,
    draw_loss_curve,
    draw_reconstruction,
    draw_serialization,
    serialize,
)

RASTER = dict(type='RasterSerialization', partition=dict(type='PatchPartition'))


def pretrain(config: Path, work_dir: Path, seed: int, raster: bool, epochs: int | None) -> tuple[RandSAC, RandSAC]:
    """Pre-train once, in raster order if ``raster``; return the untrained model and the trained one."""
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name, cfg.randomness.seed = str(work_dir), work_dir.name, seed
    if raster:
        cfg.model.data_preprocessor.serialization = RASTER
    if epochs is not None:
        set_epochs(cfg, epochs)
    runner = Runner.from_cfg(cfg)
    untrained = copy.deepcopy(runner.model)
    return untrained, runner.train()


def draw(model: RandSAC, test: LabelledImages, work_dir: Path, seed: int) -> list[str]:
    """Draw a serialization (still and moving), reconstructions and the loss curve; return where they are."""
    names = ('serialization.png', 'serialization.gif', 'reconstruction.png', 'loss.png')
    still, moving, reconstruction, loss = paths = [work_dir / name for name in names]
    inputs = normalise(model.data_preprocessor, test.images[:5])
    grid = model.backbone.patch_resolution
    rank, groups = serialize(model.data_preprocessor.serialization, len(inputs), grid, seed)
    image = test.images[0].byte().expand(3, -1, -1).permute(1, 2, 0).numpy()  # (H, W, 3)
    draw_serialization(image, rank[0], grid, still, groups[0])
    animate_serialization(image, rank[0], grid, moving, groups=groups[0])
    draw_reconstruction(model, inputs, reconstruction, seed)
    draw_loss_curve(max(work_dir.glob('*/vis_data/scalars.json')), loss)  # folders are named after the time
    return [str(path) for path in paths]


def format_scores(rows: dict[str, list[Scores]]) -> str:
    """Write scores as a table for people: the mean, and all seeds if there are several."""
    lines = [f'{"features":<34}{"kNN %":>8}{"linear %":>10}']
    for name, scores in rows.items():
        knn, linear = (statistics.mean(column) for column in zip(*scores, strict=True))
        seeds = f'   (seeds: {", ".join(f"{s.knn:.1f}/{s.linear:.1f}" for s in scores)})' if len(scores) > 1 else ''
        lines.append(f'{name:<34}{knn:>8.1f}{linear:>10.1f}{seeds}')
    return '\n'.join(lines)


def run(config: Path, out: Path, seeds: list[int], with_raster: bool, epochs: int | None) -> dict:
    """Pre-train with every seed, evaluate, draw, and write ``summary.json`` to the folder ``out``.

    Pictures are of the first seed. ``with_raster`` runs raster order beside it, ``epochs`` replaces the config's.
    """
    train, test = (LabelledImages(part.images.float(), part.labels) for part in (Digits('train'), Digits('test')))

    def evaluate(model: RandSAC) -> Scores:
        return evaluate_backbone(model.backbone, partial(normalise, model.data_preprocessor), train, test)

    raw = evaluate_features(train.images.flatten(1), train.labels, test.images.flatten(1), test.labels)
    rows: dict[str, list[Scores]] = {'raw pixels': [raw], 'encoder, untrained': [], 'encoder, RandSAC': []}
    seconds, pictures = [], []
    for seed in seeds:
        work_dir = out / f'randsac_seed{seed}'
        start = time.perf_counter()
        untrained, trained = pretrain(config, work_dir, seed, False, epochs)
        seconds.append(round(time.perf_counter() - start, 1))
        rows['encoder, untrained'].append(evaluate(untrained))
        rows['encoder, RandSAC'].append(evaluate(trained))
        pictures = pictures or draw(trained, test, work_dir, seed)
        if with_raster:
            raster = pretrain(config, out / f'raster_seed{seed}', seed, True, epochs)[1]
            rows.setdefault('encoder, raster order', []).append(evaluate(raster))
    summary = {
        **describe_origin(),
        'config': str(config),
        'data': f'scikit-learn digits: {len(train.labels)} to learn from, {len(test.labels)} held out',
        'epochs': epochs or "the config's",
        'seeds': seeds,
        'training_seconds': seconds,
        'accuracy_percent': {name: [s._asdict() for s in scores] for name, scores in rows.items()},
        'pictures': pictures,
        'checkpoints': str(out / f'randsac_seed{seeds[0]}'),
    }
    write_json(out / 'summary.json', summary)
    print(f'\n{format_scores(rows)}\n')
    return summary


def format_summary(out: Path, summary: dict) -> str:
    """Write what the numbers mean, where everything is, and what to do next."""
    pictures = '\n'.join(f'  {path}' for path in summary['pictures'])
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
  your own images   randsac-mm pretrain /my/photos
  CIFAR-10          randsac-mm prepare-cifar10 && randsac-mm train configs/randsac/vit-t_cifar10.py
  ImageNet, 8 GPUs  bash {find_root() / 'tools' / 'dist_train.sh'} configs/randsac/vit-b_in1k.py 8
  (after: source {Path(sys.prefix) / 'bin' / 'activate'})"""
