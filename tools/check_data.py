#!/usr/bin/env python
"""Check the data sets of a config: what is in them, what is skipped and why, and whether the model fits them.

Every annotation is read, and of every image its header. The exit status is 1 if there are errors. What was found is
remembered until a file changes; train.py, test.py and evaluate.py begin with the same check.

Example:
    python tools/check_data.py CONFIG --sheet pictures --json report.json
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from randsac_mm.engine.tool import make_parser, run_tool

from randsac_mm.datasets.check import check_config
from randsac_mm.datasets.data_report import format_report
from randsac_mm.engine.launch import load_config
from randsac_mm.files import write_json
from randsac_mm.visualization.label_sheet import draw_label_sheets


def work(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options, None, 'none')
    reports = check_config(cfg, decode=args.all)
    print('\n'.join(map(format_report, reports)))
    if args.json:
        write_json(args.json, list(map(asdict, reports)))
    if args.sheet:
        print(*draw_label_sheets(cfg, reports, args.sheet), sep='\n')
    errors = sum(len(report.errors) for report in reports)
    if errors:
        raise ValueError(f'{errors} error(s), which are named above')


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config of any training')
    parser.add_argument('--all', action='store_true', help='decode every image completely')
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='also write the report there')
    parser.add_argument('--sheet', type=Path, metavar='DIR', help='draw samples of each data set with their labels')
    run_tool(parser, work)
