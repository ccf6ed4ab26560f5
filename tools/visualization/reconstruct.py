#!/usr/bin/env python
"""Draw what a pre-trained model predicts: original, serialization, prediction per segment, all predictions together.

Writes reconstruction.png and reconstruction.json (mean squared error of every rank).

Example:
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from randsac_mm.models import RandSAC
from randsac_mm.visualization import draw_reconstruction
from randsac_mm.visualization.command import picture_parser, run_picture_tool


def draw(model: RandSAC, inputs: Tensor, picture: Path, args: argparse.Namespace) -> tuple[dict, str]:
    done = draw_reconstruction(model, inputs, picture, args.seed)
    means = [float(np.mean(errors[1:])) for errors in done.errors]
    per_image = [
        {'image': name, 'mse': mean, 'mse_per_rank': errors}
        for name, mean, errors in zip(args.images, means, done.errors, strict=True)
    ]
    space = 'patches' if done.norm_pix else 'images'
    error = f'mean squared error of normalised {space}, mean over ranks and images: {np.mean(means):.4f}'
    return {'norm_pix': done.norm_pix, 'note': done.note, 'images': per_image}, f'{done.note}\n\n{error}'


def main() -> None:
    run_picture_tool(picture_parser(__doc__, 8), 'reconstruction', draw)


if __name__ == '__main__':
    main()
