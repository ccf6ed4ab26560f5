#!/usr/bin/env python
"""Make one static page of a pre-training run: curves, speed, probes, pictures of what was learned, config, origin.

The page is a single HTML file without scripts and without references to anything outside of it.

Examples:
    python tools/report.py work_dirs/vit-t_cifar10 --out vit-t_cifar10.html
    python tools/report.py work_dirs/my_run --probe probes.json --images /my/photos --out my_run.html
"""

import argparse
from pathlib import Path

from randsac_mm.visualization.canvas import replacing
from randsac_mm.visualization.command import add_image_options, run_tool
from randsac_mm.visualization.report import make_report, read_probes
from randsac_mm.visualization.run_log import read_run


def work(args: argparse.Namespace) -> str:
    """Make the page; return what to tell the user."""
    for option, path in (('--checkpoint', args.checkpoint), ('--config', args.config)):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f'{option} {path}: there is no such file')
    run, probes = read_run(args.work_dir, args.checkpoint), read_probes(args.probe)
    if args.config is not None:
        run = run._replace(config=args.config)
    text, parts = make_report(
        run,
        probes,
        images=args.images,
        num=args.num,
        loss_images=args.loss_images,
        seed=args.seed,
        options=args.cfg_options,
    )
    with replacing(args.out) as partial:
        partial.write_text(text, encoding='utf-8')
    left_out = [f'not on the page: {part.title}: {part.missing}' for part in parts if part.missing]
    return '\n'.join([*left_out, str(args.out)])


def main() -> None:
    """Read the command line, make the page, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='work directory of the run')
    parser.add_argument('--out', type=Path, required=True, help='HTML file to write')
    parser.add_argument('--checkpoint', type=Path, help="default: the work directory's last")
    parser.add_argument('--config', type=Path, help="default: the work directory's")
    parser.add_argument('--probe', type=Path, nargs='+', default=[], help='results of tools/evaluate.py (JSON)')
    parser.add_argument('--loss-images', type=int, default=128, help='images for the loss by rank (default: 128)')
    add_image_options(parser, 4)
    run_tool('report.py', parser, work)


if __name__ == '__main__':
    main()
