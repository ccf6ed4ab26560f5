#!/usr/bin/env python
"""Draw what a pre-trained model predicts: original, serialization, prediction per segment, all predictions together.

Writes reconstruction.png and reconstruction.json (mean squared error of every rank).

Example:
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse

import numpy as np

from randsac_mm.visualization import PIXEL_NOTE, TARGET_NOTE, draw_reconstruction, serialize
from randsac_mm.visualization.canvas import save_json
from randsac_mm.visualization.command import describe, picture_parser, prepare, run_tool


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to tell the user."""
    model, inputs, names = prepare(args)
    grid = model.backbone.grid(*inputs.shape[2:])
    drawn = serialize(model.data_preprocessor.serialization, len(inputs), grid, args.seed)
    picture, figures = args.out / 'reconstruction.png', args.out / 'reconstruction.json'
    done = draw_reconstruction(model, inputs, picture, drawn.rank, drawn.groups, args.max_steps)
    note = TARGET_NOTE if done.uses_target else PIXEL_NOTE
    means = [float(np.mean(errors[1:])) for errors in done.errors]
    result = {
        **describe(args, names),
        'norm_pix': done.uses_target,
        'picture_uses_target': done.uses_target,
        'note': note,
        'images': [
            {'image': name, 'mse': mean, 'mse_per_rank': errors}
            for name, mean, errors in zip(names, means, done.errors, strict=True)
        ],
    }
    save_json(result, figures)
    space = 'of normalised patches' if done.uses_target else 'of normalised images'
    return (
        f'{note}\n\nmean squared error {space}, mean over ranks and images: {np.mean(means):.4f}\n{picture}\n{figures}'
    )


def main() -> None:
    """Read the command line, draw, say where."""
    parser = picture_parser(__doc__, 8)
    parser.add_argument('--max-steps', type=int, default=8, help='panels for the predictions in order (default: 8)')
    run_tool('reconstruct.py', parser, work)


if __name__ == '__main__':
    main()
