#!/usr/bin/env python
"""Run the paper's tables on CIFAR: pre-training, probe and fine-tuning of every row, ours beside the paper's values.

What is done is kept in the work dir: started again, the command goes on where it stopped. Several of them, on one
machine or on many with one file system, share the runs: each takes those that no other is at.

Examples:
    python tools/reproduce.py --table 6                                     # the paper's sizes and epochs; for GPUs
    python tools/reproduce.py --table 2 4 6 10 --protocol cpu --threads 1   # hours on a CPU; start it once per core
    python tools/reproduce.py --table 2 6 7 10 --protocol gpu --seeds 0     # minutes a row on a large GPU
    python tools/reproduce.py --table 10 --row transformer transformer-skip --epochs 100 --seeds 0
    python tools/reproduce.py --table 10 --protocol cpu --report            # only write what is known by now
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from randsac_mm.reproduction import (
    PROTOCOLS,
    STAGES,
    Job,
    load_tables,
    measure,
    parse_protocol,
    run_stages,
    write_table,
)

ROOT = Path(__file__).resolve().parents[1]
TABLES = load_tables(ROOT / 'configs' / 'paper_tables.yml')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', nargs='+', type=int, required=True, choices=sorted(TABLES), metavar='N')
    parser.add_argument('--row', nargs='+', help='only rows of these names (default: all)')
    parser.add_argument('--protocol', default='paper', choices=sorted(PROTOCOLS), help='scale (default: %(default)s)')
    parser.add_argument('--epochs', type=int, help='epochs of pre-training, warm-up and decay with them')
    parser.add_argument('--subset', type=int, metavar='n', help='only the first n training images')
    parser.add_argument('--finetune-epochs', type=int, help='epochs of fine-tuning; 0: none')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--stages', nargs='+', default=STAGES, choices=STAGES, help='(default: all)')
    parser.add_argument('--data-root', help="folder of the data set (default: the config's, data/cifar10)")
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/reproduce'), help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'results', help='(default: docs/results)')
    parser.add_argument('--threads', type=int, help="of this process (default: torch's choice, all cores)")
    parser.add_argument('--report', action='store_true', help='run nothing')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        protocol, name = parse_protocol(args.protocol, args.epochs, args.subset, args.finetune_epochs)
        rows = {number: TABLES[number].rows for number in args.table}
        wanted = [row for number in args.table for row in rows[number] if args.row is None or row.name in args.row]
        unknown = set(args.row or ()) - {row.name for row in wanted}
        if unknown:
            known = ', '.join(repr(row.name) for number in args.table for row in rows[number])
            raise ValueError(f'--row {", ".join(sorted(unknown))}: these tables have {known}')

        def job(recipe: str, seed: int) -> Job:
            folder = args.work_dir / name / recipe / f'seed{seed}'
            return Job(recipe, seed, protocol, folder, ROOT / 'configs', args.data_root)

        recipes = dict.fromkeys(row.recipe for row in wanted if row.recipe is not None)
        busy = []
        for seed in args.seeds if not args.report else ():
            for recipe in recipes:
                if not run_stages(job(recipe, seed), tuple(args.stages), lambda line: print(line, flush=True)):
                    busy.append(f'{recipe}, seed {seed}')
        for number in args.table:
            measured = [
                measure(row, [job(row.recipe, seed) for seed in args.seeds] if row.recipe else [])
                for row in rows[number]
            ]
            write_table(number, TABLES[number], measured, protocol, shlex.join(['python', *sys.argv]), args.out)
            print(f'{args.out / f"table{number}.md"}')
        if busy:
            print(f'left to other processes: {"; ".join(busy)}. When they are done: the same with --report')
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'reproduce.py: error: {error}')


if __name__ == '__main__':
    main()
