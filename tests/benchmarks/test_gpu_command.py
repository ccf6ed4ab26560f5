"""The one command for a GPU: what it calls exists, fits its time, and runs on a CPU."""

import re
import shlex
import subprocess
import sys

import pytest


@pytest.fixture
def script(root):
    return (root / 'tools' / 'benchmarks' / 'gpu.sh').read_text()


def calls(script):
    """List the calls of the real run as words, with shell variables filled in."""
    real = script[script.index('\nelse\n') :]
    lists = dict(re.findall(r'^    (\w+)=\((.*)\)$', real, re.MULTILINE))
    lists['bf16'] = '--device cpu --out x --dtype bf16'
    lists['to'] = '--device cpu --out x'
    lists['data'] = '--device cpu --json x'
    for line in re.findall(r'^    part (.*)$', real, re.MULTILINE):
        line = line.replace('$STEP', 'tools/benchmarks/step.py')
        yield shlex.split(re.sub(r'"\$\{(\w+)\[@\]\}"', lambda match: lists[match[1]], line))


def test_every_call_is_understood(script, bench, root, monkeypatch):
    for name, seconds, tool, *options in calls(script):
        assert (root / tool).is_file(), name
        assert int(seconds) <= 150
        if tool.endswith(('step.py', 'scaling.py')):
            monkeypatch.setattr(sys, 'argv', [tool, *options])
            args = bench(tool.split('/')[-1][:-3]).parse_args()
            assert args.budget is None or args.budget < int(seconds)


def test_the_models_and_variants_of_the_issue_are_there(script):
    steps = [words for words in calls(script) if words[2].endswith('step.py')]
    models = {words[words.index('--models') + 1] for words in steps}
    assert models == {'vit-t', 'vit-s', 'vit-b', 'vit-b_k9'}
    variants = {word for words in steps if '--variants' in words for word in words[words.index('--variants') :]}
    assert {'plain', 'plain-compiled', 'mae-compiled', 'eager', 'compiled', 'graphs', 'compiled:triton'} <= variants


def test_it_ends_in_time(script):
    assert int(re.search(r'LIMIT=(\d+)', script)[1]) + 15 < 9 * 60


def test_wrong_calls(root, tmp_path):
    for options in ([], ['--smoke'], ['out', '--fast']):
        command = ['bash', str(root / 'tools/benchmarks/gpu.sh'), *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert not list(tmp_path.iterdir())
        assert 'usage' in done.stderr or 'unknown option' in done.stderr
