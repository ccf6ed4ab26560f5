#!/usr/bin/env python
"""Time the first step of a process that compiles: with an empty cache of the compiler, and with a filled one.

Each first step is taken in a process of its own, by `step.py --rounds 0`, ways to compile in turns; then one more
process times later steps of all of them.

Example:
    python tools/benchmarks/first_step.py --models vit-b_k9 --rounds 3
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

from step import DTYPES
from step_models import KNOWN

WAYS = ('whole', 'units', 'eager')


def run_step(cache: Path, *options: str) -> dict:
    """Return the report of `step.py` on one model; its process compiles with a cache of its own."""
    env = {**os.environ, 'TORCHINDUCTOR_CACHE_DIR': str(cache)}
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, Path(__file__).with_name('step.py'), *options, '--out', f'{out}/step']
        subprocess.run(command, env=env, check=True, stdout=sys.stderr)
        return json.loads(Path(out, 'step.json').read_text())['models'][0]['variants']


def main(argv: list[str] | None = None) -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument('--models', nargs='+', choices=list(KNOWN), default=['vit-b_k9', 'vit-s', 'vit-t'])
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--rounds', type=int, default=3, help='processes of each way, cold and warm (default: 3)')
    args = parser.parse_args(argv)
    rows = [('model', 'compiled', 'first step, cold', 'first step, warm', 'later step', '/ whole')]
    report: dict = {'dtype': args.dtype, 'rounds': args.rounds, 'models': {}}
    for model in args.models:
        options = ('--device', str(args.device), '--models', model, '--dtype', args.dtype)
        seconds: dict = {way: {'cold': [], 'warm': []} for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                with tempfile.TemporaryDirectory() as cache:
                    for state in ('cold', 'warm'):
                        row = run_step(Path(cache), *options, '--variants', way, '--rounds', '0')[way]
                        seconds[way][state].append(row['first_step_seconds'])
        with tempfile.TemporaryDirectory() as cache:
            later = run_step(Path(cache), *options, '--variants', *WAYS, '--rounds', '7')
        report['models'][model] = {way: {**seconds[way], **later[way]} for way in WAYS}
        for way in WAYS:
            first = [f'{measure.spread(seconds[way][state])["median"]:.1f} s' for state in ('cold', 'warm')]
            step = later[way]
            rows.append((model, way, *first, f'{1e3 * step["step"]["median"]:.0f} ms', f'{step["ratio"]:.3f}'))
        about = f'{args.dtype}; medians of first steps, processes of each: {args.rounds}; of later steps, rounds: 7'
        text = f'{about}\n\n{measure.markdown(rows)}'
        measure.write_report(report, text, args.out)
    print(text)


if __name__ == '__main__':
    main()
