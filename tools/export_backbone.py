#!/usr/bin/env python
"""Export the encoder of a checkpoint for mmpretrain, timm, transformers, safetensors or ONNX, verified.

Each export is loaded again in its own library and compared on real images, see its verification.json. If features
differ by more than 1e-5 (ONNX: 1e-4) it is deleted and the exit status is 1.

Example:
    python tools/export_backbone.py work_dirs/vit-b_in1k/epoch_1600.pth --to timm hf onnx
    python tools/export_backbone.py backbone.pth --config configs/randsac/vit-b_in1k.py --to onnx --uint8
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import make_parser, run_tool

from randsac_mm.engine.work_dir import find_run
from randsac_mm.export import TARGETS, export_encoder, read_encoder
from randsac_mm.locations import command_line


def work(args: argparse.Namespace) -> None:
    path = find_run(args.checkpoint)[1] if args.checkpoint.is_dir() else args.checkpoint
    out = args.out or path.with_name(f'{path.stem}_export')
    encoder = read_encoder(path, args.config, args.img_size, averaged_norm=not args.drop_averaged_norm)
    for note in encoder.notes:
        print(f'note: {note}')
    options = dict(images=args.images, force=args.force, uint8=args.uint8)
    for exported in export_encoder(encoder, args.to, out, **options, command=command_line()):
        print(exported, flush=True)


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('checkpoint', type=Path, help='of any run, its work directory, or a bare backbone')
    parser.add_argument('--to', nargs='+', required=True, choices=TARGETS, help='one or several targets')
    parser.add_argument('--out', type=Path, metavar='DIR', help='folder of all targets (default: CHECKPOINT_export)')
    parser.add_argument('--force', action='store_true', help='replace earlier exports')
    parser.add_argument('--images', type=Path, metavar='DIR', help='real images to compare on (default: scikit-learn)')
    parser.add_argument('--config', type=Path, help='the config of the run (default: the one that is stored)')
    parser.add_argument('--img-size', type=int, nargs=2, metavar=('H', 'W'), help="pixels (default: the config's)")
    parser.add_argument('--drop-averaged-norm', action='store_true', help="drop a classifier's norm of the average")
    parser.add_argument('--uint8', action='store_true', help='ONNX: take pixels 0 .. 255 and normalise inside')
    run_tool(parser, work)
