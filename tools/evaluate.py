#!/usr/bin/env python
"""Evaluate a checkpoint's frozen features: nearest neighbours and a linear probe, in minutes.

Features are the averaged tokens of images without augmentation, so this is quicker than configs/linear_probe/. Images
of the encoder's size stay as they are; what is done to others is printed. Data sets: digits, CIFAR-10, CIFAR-100, or
DIR/train/CLASS/IMAGE with DIR/val/CLASS/IMAGE, or DIR/CLASS/IMAGE.

Examples:
    python tools/evaluate.py configs/randsac/vit-t_cifar10.py work_dirs/vit-t_cifar10/epoch_800.pth --raw --untrained
    python tools/evaluate.py work_dirs/vit-t_cifar10 --data /my/labelled/photos          # its newest checkpoint
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import at_least, make_parser, run_tool

from mmengine.registry import init_default_scope

from randsac_mm.engine.launch import load_config
from randsac_mm.engine.origin import describe_origin
from randsac_mm.engine.work_dir import find_run
from randsac_mm.evaluation.evaluate import evaluate_checkpoint, format_accuracy
from randsac_mm.files import write_json


def work(args: argparse.Namespace) -> str:
    if args.checkpoint is None:
        args.config, args.checkpoint = map(str, find_run(args.config))
    cfg = load_config(args.config, args.cfg_options, None, 'none')
    init_default_scope('mmpretrain')
    options = {key: getattr(args, key) for key in ('subset', 'raw', 'untrained', 'seed', 'k')}
    report = evaluate_checkpoint(cfg, args.checkpoint, args.data, check=not args.no_check, **options)
    if args.out:
        write_json(args.out, {**describe_origin(), 'config': args.config, **report})
    return format_accuracy(report)


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config that the checkpoint was trained with, or a work directory alone')
    text = 'checkpoint of pre-training or of any other run; its backbone must fit'
    parser.add_argument('checkpoint', nargs='?', help=text)
    parser.add_argument('--data', metavar='digits|DIR', help="labelled data (default: the config's)")
    parser.add_argument('--subset', type=at_least(1), metavar='N', help='learn from N images, each class by its share')
    text = 'numbers of neighbours (default: 20)'
    parser.add_argument('--k', type=at_least(1), nargs='+', default=[20], metavar='N', help=text)
    parser.add_argument('--seed', type=at_least(0), default=0, help='of subset and untrained encoder (default: 0)')
    parser.add_argument('--raw', action='store_true', help='evaluate raw pixels as well')
    parser.add_argument('--untrained', action='store_true', help='evaluate the same encoder without training as well')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='also write the figures there')
    parser.add_argument('--no-check', action='store_true', help='do not check the files of a folder first')
    run_tool(parser, work)
