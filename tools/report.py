#!/usr/bin/env python
"""Make one static page of a pre-training run: curves, speed, probes, pictures of what was learned, config, origin.

The page is a single HTML file without scripts and without references to anything outside of it.

Examples:
    python tools/report.py work_dirs/vit-t_cifar10 --out vit-t_cifar10.html
    python tools/report.py work_dirs/my_run --probe scores.json --images /my/photos --out my_run.html
"""

import argparse
import json
from pathlib import Path

from randsac_mm.engine.tool import run_tool

from randsac_mm.files import atomic_write
from randsac_mm.visualization.command import make_parser
from randsac_mm.visualization.report import make_report
from randsac_mm.visualization.run_log import read_run


def work(args: argparse.Namespace) -> str:
    """Make the page; return what to print."""
    if args.checkpoint is not None and not args.checkpoint.is_file():
        raise FileNotFoundError(f'--checkpoint {args.checkpoint}: there is no such file')
    try:
        probes = {str(path): json.loads(path.read_text()) for path in args.probe}
    except ValueError as error:
        raise ValueError(f'--probe {args.probe} must be JSON files from tools/evaluate.py: {error}') from error
    run = read_run(args.work_dir, args.checkpoint)
    html, missing = make_report(run, probes, args.images, args.num, args.seed, args.cfg_options)
    with atomic_write(args.out) as temporary:
        temporary.write_text(html, encoding='utf-8')
    return '\n'.join([*(f'not on the page: {title}: {why}' for title, why in missing.items()), str(args.out)])


if __name__ == '__main__':
    parser = make_parser(__doc__, 4)
    parser.add_argument('work_dir', type=Path, help='work directory of the run')
    parser.add_argument('--checkpoint', type=Path, help="default: the work directory's last")
    parser.add_argument('--probe', type=Path, nargs='+', default=[], help='results of tools/evaluate.py (JSON)')
    run_tool(parser, work)
