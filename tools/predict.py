#!/usr/bin/env python
"""Draw segmentation maps or instance masks of images, with a model that was trained by tools/train.py.

Writes DIR/pictures/NAME.png and DIR/labels/NAME.png (segmentation: class indices) or DIR/instances/NAME.json
(detection), and DIR/results.json. The exit status is 1 if an image could not be predicted; all others are done first.

Example:
    python tools/predict.py CONFIG work_dirs/NAME/iter_160000.pth street.jpg /my/photos --out predictions
"""

import argparse
import sys

from randsac_mm.engine.tool import make_parser, run_tool

from PIL import Image

from randsac_mm.inference import Faulty, Predictor
from randsac_mm.inference.drawing import PARTS
from randsac_mm.locations import command_name


def work(args: argparse.Namespace) -> None:
    done, faults = 0, 0
    Image.MAX_IMAGE_PIXELS = args.max_pixels // 2  # Pillow refuses what has twice as many
    predict = Predictor(args.config, args.checkpoint, args.device, args.score_thr, args.cfg_options, args.draw)
    for result in predict.stream(args.images, args.out):
        if isinstance(result, Faulty):
            faults += 1
            print(f'{command_name() or "predict.py"}: not predicted: {result}', file=sys.stderr)
        else:
            done += 1
            print(*result.files)
    if faults:
        raise ValueError(f'{faults} of {done + faults} images could not be predicted; they are named above')


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config of segmentation (mmseg) or detection (mmdet)')
    parser.add_argument('checkpoint', help='checkpoint of that config')
    parser.add_argument('images', nargs='+', help='image files, or folders of any nesting')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for pictures and results')
    parser.add_argument('--score-thr', type=float, help='detection: draw no instance below this score (default: 0.3)')
    text = 'detection: draw these only (default: all, but no name that would cover more than half of its object)'
    parser.add_argument('--draw', nargs='+', choices=PARTS, help=text)
    parser.add_argument('--device', default='cpu', help='cpu (default), cuda, cuda:1, ...')
    text = 'read images of up to N pixels (default: %(default)s); model.test_cfg.mode=slide predicts them in windows'
    parser.add_argument('--max-pixels', type=int, default=178_956_970, metavar='N', help=text)
    run_tool(parser, work)
