"""The benchmark of the first step: cold is an empty cache of the compiler, warm the same cache in another process."""

import json


def test_cold_then_warm(bench, monkeypatch, tmp_path):
    first_step = bench('first_step')

    def run_step(cache, *options):
        ways = options[options.index('--variants') + 1 : options.index('--rounds')]
        warm = any(cache.iterdir())
        (cache / ways[0]).touch()
        step = {'step': {'median': 0.5}, 'ratio': 1.25}
        return {way: {'first_step_seconds': 3.0 if warm else 40.0, **step} for way in ways}

    monkeypatch.setattr(first_step, 'run_step', run_step)
    first_step.main(['--models', 'tiny', '--device', 'cpu', '--rounds', '2', '--out', str(tmp_path / 'first')])
    ways = json.loads((tmp_path / 'first.json').read_text())['models']['tiny']
    assert list(ways) == ['whole', 'units', 'eager']
    assert all((row['cold'], row['warm']) == ([40, 40], [3, 3]) for row in ways.values())
    assert '| tiny | units | 40.0 s | 3.0 s | 500 ms | 1.250 |' in (tmp_path / 'first.md').read_text()
