#!/usr/bin/env python
"""Draw what a pre-trained model predicts: original, serialization, prediction per segment, all predictions together.

Writes reconstruction.png and reconstruction.json (mean squared error of every rank).

Example:
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out
    python tools/visualization/reconstruct.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse

import numpy as np

from randsac_mm.visualization import draw_reconstruction, serialize
from randsac_mm.visualization.command import add_image_options, checkpoint_parser, prepare, run_tool, write_result


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to print."""
    model, inputs, names = prepare(args)
    grid = model.backbone.grid(*inputs.shape[2:])
    drawn = serialize(model.data_preprocessor.serialization, len(inputs), grid, args.seed)
    picture, numbers = args.out / 'reconstruction.png', args.out / 'reconstruction.json'
    done = draw_reconstruction(model, inputs, picture, *drawn)
    means = [float(np.mean(errors[1:])) for errors in done.errors]
    per_image = [
        {'image': name, 'mse': mean, 'mse_per_rank': errors}
        for name, mean, errors in zip(names, means, done.errors, strict=True)
    ]
    write_result(numbers, args, {'norm_pix': done.norm_pix, 'note': done.note, 'images': per_image}, names)
    space = 'patches' if done.norm_pix else 'images'
    error = f'mean squared error of normalised {space}, mean over ranks and images: {np.mean(means):.4f}'
    return f'{done.note}\n\n{error}\n{picture}\n{numbers}'


def main() -> None:
    parser = checkpoint_parser(__doc__)
    add_image_options(parser, 8)
    run_tool(parser, work)


if __name__ == '__main__':
    main()
