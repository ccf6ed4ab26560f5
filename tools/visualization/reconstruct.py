#!/usr/bin/env python
"""Draw what a pre-trained model predicts: original, serialization, prediction per segment, all predictions together.

Writes reconstruction.png and reconstruction.json (mean squared error of every rank).

Example:
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.datasets import find_fault, read_image
from randsac_mm.engine.launch import load_config
from randsac_mm.visualization import (
    PIXEL_NOTE,
    TARGET_NOTE,
    dataset_inputs,
    draw_reconstruction,
    load_weights,
    serialize,
    to_inputs,
)


def find_images(paths: list[Path], num: int) -> list[Path]:
    """List image files: those named, and in folders, of any nesting, the first readable ones in order of name."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f'--images {path}: there is no such file or folder')
        if path.is_file():
            found.append(path)
            continue
        for file in sorted(path.rglob('*')):
            if len(found) < num and file.is_file() and find_fault(file) is None:
                found.append(file)
    if not found:
        raise FileNotFoundError(f'--images {" ".join(map(str, paths))}: no readable image there')
    return found[:num]


def run(args: argparse.Namespace) -> str:
    """Draw and write; return what to tell the user."""
    cfg = load_config(args.config, args.cfg_options, None, 'none')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    load_weights(model, args.checkpoint)
    if args.images:
        files = find_images(args.images, args.num)
        names = [str(file) for file in files]
        inputs = to_inputs(model, [read_image(file) for file in files])
    else:
        inputs = dataset_inputs(model, cfg, args.num, args.seed)
        names = [f'{i}' for i in range(len(inputs))]
    grid = model.backbone.grid(*inputs.shape[2:])
    drawn = serialize(model.data_preprocessor.serialization, len(inputs), grid, args.seed)
    picture, figures = args.out / 'reconstruction.png', args.out / 'reconstruction.json'
    done = draw_reconstruction(model, inputs, picture, drawn.rank, drawn.groups, args.max_steps)
    note = TARGET_NOTE if done.uses_target else PIXEL_NOTE
    means = [float(np.mean(errors[1:])) for errors in done.errors]
    result = {
        'config': args.config,
        'checkpoint': args.checkpoint,
        'norm_pix': done.uses_target,
        'note': note,
        'images': [
            {'image': name, 'mse': mean, 'mse_per_rank': errors}
            for name, mean, errors in zip(names, means, done.errors, strict=True)
        ],
    }
    figures.write_text(json.dumps(result, indent=2) + '\n')
    space = 'of normalised patches' if done.uses_target else 'of normalised images'
    return (
        f'{note}\n\nmean squared error {space}, mean over ranks and images: {np.mean(means):.4f}\n{picture}\n{figures}'
    )


def main() -> None:
    """Read the command line, draw, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the pre-training run')
    parser.add_argument('checkpoint', help='its checkpoint; every tensor must fit')
    parser.add_argument('--out', type=Path, required=True, help='folder for picture and figures')
    parser.add_argument(
        '--images', type=Path, nargs='+', help="image files or folders (default: the config's data set)"
    )
    parser.add_argument('--num', type=int, default=8, help='number of images (default: 8)')
    parser.add_argument('--seed', type=int, default=0, help='of serializations and choice of images (default: 0)')
    parser.add_argument('--max-steps', type=int, default=8, help='panels for the predictions in order (default: 8)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    args = parser.parse_args()
    if args.num < 1:
        parser.error(f'--num {args.num}: draw at least 1 image')
    try:
        print(run(args))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'reconstruct.py: error: {error}')


if __name__ == '__main__':
    main()
