#!/usr/bin/env python
"""Run the paper's tables on CIFAR: pre-training, probe and fine-tuning of every row, ours beside the paper's values.

What is done is kept in the work dir: started again, the command goes on where it stopped. Several of them, on one
machine or on many with one file system, share the runs: each takes those that no other is at.

Examples:
    python tools/reproduce.py --table 6                                     # the paper's sizes and epochs; for GPUs
    python tools/reproduce.py --table 2 4 6 10 --protocol cpu --threads 1   # hours on a CPU; start it once per core
    python tools/reproduce.py --table 10 --protocol cpu --report            # only write what is known by now
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import at_least, make_parser, run_tool

import torch

from randsac_mm.locations import command_line, find_root
from randsac_mm.reproduction import PROTOCOLS, Job, load_tables, measure, parse_protocol, run_all, write_table

CONFIGS = find_root() / 'configs'
TABLES = load_tables(CONFIGS / 'paper_tables.yml')


def work(args: argparse.Namespace) -> None:
    known = [row.name for number in args.table for row in TABLES[number].rows]
    unknown = set(args.row or ()) - set(known)
    if unknown:
        raise ValueError(f'--row {", ".join(sorted(unknown))}: these tables have {", ".join(map(repr, known))}')

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    protocol, name = parse_protocol(args.protocol, args.epochs, args.subset, args.finetune_epochs)
    rows = [row for number in args.table for row in TABLES[number].rows if args.row is None or row.name in args.row]
    recipes = dict.fromkeys(row.recipe for row in rows if row.recipe is not None)

    def job(recipe: str, seed: int) -> Job:
        folder = args.work_dir / name / recipe / f'seed{seed}'
        return Job(recipe, seed, protocol, folder, CONFIGS, args.data_root)

    def write() -> None:
        for number in args.table:
            table = TABLES[number]
            found = [measure(row, [job(row.recipe, seed) for seed in args.seeds if row.recipe]) for row in table.rows]
            write_table(number, table, found, protocol, command_line(), args.out)

    jobs = [job(recipe, seed) for seed in args.seeds for recipe in recipes]
    incomplete = [] if args.report else run_all(jobs, args.minutes, write)
    write()
    print(*(args.out / f'table{number}.md' for number in args.table), sep='\n')
    if incomplete:
        print('not complete:', *incomplete, 'The same command continues; --report only writes what is known', sep='\n')


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('--table', nargs='+', type=int, required=True, choices=sorted(TABLES), metavar='N')
    parser.add_argument('--row', nargs='+', help='only rows of these names (default: all)')
    parser.add_argument('--protocol', default='paper', choices=sorted(PROTOCOLS), help='scale (default: %(default)s)')
    parser.add_argument('--epochs', type=at_least(1), help='epochs of pre-training, warm-up and decay with them')
    parser.add_argument('--subset', type=at_least(1), metavar='n', help='only the first n training images')
    parser.add_argument('--finetune-epochs', type=at_least(0), help='epochs of fine-tuning; 0: none')
    parser.add_argument('--seeds', nargs='+', type=at_least(0), default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--data-root', help="folder of the data set (default: the config's, data/cifar10)")
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'), help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('docs/results'), help='(default: %(default)s)')
    parser.add_argument('--threads', type=at_least(1), help="of this process (default: torch's choice, all cores)")
    text = 'limit for all runs; one that it ends continues the next time (default: none)'
    parser.add_argument('--minutes', type=float, help=text)
    parser.add_argument('--report', action='store_true', help='run nothing')
    run_tool(parser, work)
