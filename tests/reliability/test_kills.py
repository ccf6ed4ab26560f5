"""Runs that are killed at random moments end with the weights of an uninterrupted run, bit for bit.

All 50 kills and 20 signals:  RELIABILITY_RUNS=50 bash tools/run_tests.sh tests/reliability/test_kills.py -rP
"""

import random
import signal

import pytest
import torch
from engine.toy_engine import assert_same
from reliability.forked import COUNT, end, kill_at_random, start

# Checkpoints every three steps, within epochs of four.
RUNS = {
    'no workers': {'epochs': 25, 'by_epoch': False, 'interval': 3, 'max_keep_ckpts': 2},
    'two workers': {'epochs': 6, 'by_epoch': False, 'interval': 3, 'max_keep_ckpts': 2, 'workers': 2},
    'seeded workers': {
        'iters': 40,
        'interval': 3,
        'max_keep_ckpts': 2,
        'sampler': 'InfiniteSampler',
        'workers': 2,
        'seeded': True,
    },
    'endless sampler': {'iters': 100, 'interval': 3, 'max_keep_ckpts': 2, 'sampler': 'InfiniteSampler'},
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Last weights, and seconds, of each run without interruption."""
    found = {}
    for name, options in RUNS.items():
        folder = tmp_path_factory.mktemp('whole') / 'run'
        status, seconds = end(start(folder, **options))
        assert status == 0, (folder / 'output.txt').read_text()[-3000:]
        found[name] = torch.load(folder / 'final.pt'), seconds
    return found


def interrupt(folder, whole, number, total):
    """Interrupt runs, three times each, ``total`` times in all; return (name, status, seconds) of each time."""
    random.seed(0)
    found, trial = [], 0
    while len(found) < total:
        name = list(RUNS)[trial % len(RUNS)]
        expected, seconds = whole[name]
        moments = [random.uniform(0.02, 0.6 * seconds) for _ in range(min(3, total - len(found)))]
        run = folder / f'run{trial}'
        found += [(name, *one) for one in kill_at_random(run, number, moments, **RUNS[name])]
        assert_same(torch.load(run / 'final.pt'), expected)
        trial += 1
    return found


@pytest.mark.slow
def test_kills(tmp_path, whole):
    found = interrupt(tmp_path, whole, signal.SIGKILL, COUNT or 12)
    killed = sum(status == -signal.SIGKILL for _, status, _ in found)
    print(f'{killed} of {len(found)} runs were killed before their end; final weights equal in all')
    assert killed > len(found) / 2


@pytest.mark.slow
def test_signals(tmp_path, whole):
    found = interrupt(tmp_path, whole, signal.SIGTERM, min(COUNT, 20) or 6)
    # -15: before the training began, when there was nothing to keep; 0: after it had ended
    stopped = [seconds for _, status, seconds in found if status == 143]
    assert {status for _, status, _ in found} <= {143, -signal.SIGTERM, 0}
    print(f'{len(stopped)} of {len(found)} runs wrote a checkpoint, in at most {max(stopped):.2f} s; weights equal')
    assert max(stopped) < 10
    assert len(stopped) > len(found) / 3
