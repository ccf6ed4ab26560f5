"""Contract: what is asked for, else what is remembered, else the fastest that is right; the default unless beaten."""

import json

import pytest
import torch

from randsac_mm.kernels import attention_choice, choice_cache
from randsac_mm.kernels.attention import attention_backend
from randsac_mm.kernels.attention_choice import AttentionShape, choose_attention
from randsac_mm.kernels.choice import Choice, choose, choose_together, describe_machine, disagreement
from randsac_mm.kernels.plain import plain_attention

SHAPE = AttentionShape(images=3, heads=2, queries=7, keys=11, dims=4)


class Clock:
    """A clock that only moves when a back-end works."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def worker(self, name, seconds):
        times = iter(seconds) if isinstance(seconds, list) else None

        def work():
            self.calls.append(name)
            self.now += next(times) if times else seconds

        return work


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """Let nothing be remembered, and no environment decide."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    for kind in ('ATTENTION', 'KIND'):
        monkeypatch.delenv(f'RANDSAC_MM_{kind}', raising=False)
    return tmp_path / 'randsac_mm' / 'choices.json'


def choose_kind(default='a', clock=None, key=None, **seconds):
    clock = clock or Clock()
    options = {name: seconds.pop(name) for name in ('check', 'requested', 'budget', 'on_request') if name in seconds}
    workers = {name: clock.worker(name, value) for name, value in seconds.items()}
    return choose('kind', workers, key or {'chip': 'x'}, default=default, clock=clock, **options)


def test_the_fastest_wins():
    choice = choose_kind(a=0.3, b=0.2, c=0.25)
    assert (choice.name, choice.source, choice.excluded) == ('b', 'measured', {})
    assert choice.seconds == pytest.approx({'a': 0.3, 'b': 0.2, 'c': 0.25})
    assert choice.report() == 'kind: b (measured; a 300.000 ms, b 200.000 ms, c 250.000 ms)'


@pytest.mark.parametrize(('seconds', 'expected'), [(0.096, 'a'), (0.094, 'b')])
def test_the_default_stays_unless_clearly_beaten(seconds, expected):
    assert choose_kind(a=0.1, b=seconds).name == expected


def test_medians_decide_over_rounds_in_turns():
    clock = Clock()
    first = [0.125] * 5  # not recorded: two calls to settle, three looks
    choice = choose_kind(a=[*first, *[0.125] * 3], b=[*first, 0.0625, 8.0, 0.0625], clock=clock, budget=0.0)
    assert choice.name == 'b'
    assert choice.seconds['b'] == 0.0625
    assert clock.calls[10:] == ['a', 'b', 'b', 'a', 'a', 'b']


def test_short_work_is_repeated_and_the_budget_ends_the_rounds():
    clock = Clock()
    choose_kind(a=2**-10, b=2**-10, clock=clock)
    assert len(clock.calls) == 2 * (5 + 15 * 4)  # 3 ms a sample, 15 rounds at most
    clock = Clock()
    choose_kind(a=0.2, b=0.2, clock=clock, key={'chip': 'slow'})
    assert clock.now == pytest.approx(2 * 5 * 0.2 + 3 * 0.4)  # a second is over, and three rounds are the least


def test_the_hopeless_are_not_measured_again():
    clock = Clock()
    choice = choose_kind(a=0.125, b=0.25, c=0.5, clock=clock)
    assert clock.calls.count('c') == 5
    assert choice.seconds['c'] == 0.5


def test_wrong_and_broken_back_ends_are_excluded():
    def broken():
        raise NotImplementedError('no such\nkernel')

    clock = Clock()
    workers = {'a': clock.worker('a', 0.3), 'b': clock.worker('b', 0.1), 'c': broken}
    options = dict(default='a', clock=clock, check={'a': None, 'b': 'it is wrong', 'c': None}.get)
    choice = choose('kind', workers, {}, **options)
    assert choice.name == 'a'
    assert choice.excluded == {'b': 'it is wrong', 'c': 'NotImplementedError: no such'}
    assert choice.report().endswith('; without b: it is wrong; without c: NotImplementedError: no such)')
    with pytest.raises(RuntimeError, match=r'no kind back-end works here: .*Name one to use it all the same'):
        choose('kind', {'c': broken}, {}, **options)


def test_a_default_that_is_wrong_is_replaced():
    assert choose_kind(a=0.1, b=0.3, check={'a': 'it is wrong', 'b': None}.get).name == 'b'


def test_asking_decides_without_measuring(monkeypatch):
    clock = Clock()
    assert choose_kind(a=0.1, b=0.2, requested='b', clock=clock).source == 'asked for'
    monkeypatch.setenv('RANDSAC_MM_KIND', 'c')
    choice = choose_kind(a=0.1, b=0.2, requested='b', on_request=['c'], clock=clock)
    assert (choice.name, choice.source) == ('c', 'RANDSAC_MM_KIND')
    assert choice.report() == 'kind: c (RANDSAC_MM_KIND)'
    monkeypatch.setenv('RANDSAC_MM_KIND', 'auto')
    assert choose_kind(a=0.1, b=0.2, requested='b', clock=clock).name == 'b'
    assert clock.calls == []
    with pytest.raises(ValueError, match=r"kind back-end 'd' \(asked for\) must be one of 'auto', 'a', 'b', 'c'"):
        choose_kind(a=0.1, b=0.2, requested='d', on_request=['c'])


def test_remembered_for_the_same_problem_only():
    assert choose_kind(a=0.3, b=0.2).source == 'measured'
    again = choose_kind(a=0.1, b=0.2)
    assert (again.name, again.source, again.seconds['a']) == ('b', 'remembered', pytest.approx(0.3))
    assert choose_kind(a=0.1, b=0.2, key={'chip': 'y'}).name == 'a'
    assert choose_kind(a=0.1, b=0.2, c=0.2).name == 'a'  # another candidate
    assert choose_kind(a=0.3, b=0.1, default='b').source == 'measured'
    assert choose_kind(a=0.1, b=0.2).source == 'remembered'  # the others have not displaced it


@pytest.mark.parametrize(
    'content',
    [
        '',
        '{',
        '[]',
        '\udcff',
        '{"version": 0, "choices": {}}',
        '{"version": 1, "choices": []}',
        '{"version": 1, "choices": {"KEY": 5}}',
        '{"version": 1, "choices": {"KEY": {"name": "gone", "seconds": {}, "excluded": {}}}}',
        '{"version": 1, "choices": {"KEY": {"name": "b", "seconds": {"b": "fast"}, "excluded": {}}}}',
        '{"version": 1, "choices": {"KEY": {"name": "b", "seconds": {}, "excluded": {"a": 1}}}}',
        '{"version": 1, "choices": {"KEY": {"name": "b"}}}',
    ],
)
def test_a_broken_file_is_replaced(cache, content):
    choose_kind(a=0.1, b=0.2)
    (key,) = json.loads(cache.read_text())['choices']
    cache.write_bytes(content.replace('"KEY"', json.dumps(key)).encode(errors='surrogateescape'))
    assert choose_kind(a=0.1, b=0.2).source == 'measured'
    assert choose_kind(a=0.1, b=0.2).source == 'remembered'


def test_a_folder_that_cannot_be_written_does_no_harm(monkeypatch, cache):
    monkeypatch.setenv('XDG_CACHE_HOME', '/dev/null')
    assert choose_kind(a=0.1, b=0.2).name == 'a'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(choice_cache.Path, 'expanduser', lambda self: (_ for _ in ()).throw(RuntimeError('no home')))
    assert choose_kind(a=0.1, b=0.2).name == 'a'


def test_no_half_written_file_is_left(monkeypatch, cache):
    choose_kind(a=0.1, b=0.2)
    before = cache.read_text()

    def full(*_):
        raise OSError('disk full')

    monkeypatch.setattr(choice_cache.os, 'replace', full)
    choose_kind(a=0.1, b=0.2, key={'chip': 'y'})
    assert cache.read_text() == before
    assert list(cache.parent.iterdir()) == [cache]


def test_disagreement():
    right = [torch.ones(3, dtype=torch.float64)]
    assert disagreement([torch.ones(3)], right, 1e-6) is None
    assert disagreement([torch.tensor([1.0, 1.0, 1.2])], right, 0.1) == 'its error is 2.0e-01, more than 1.0e-01'
    assert disagreement([torch.tensor([1.0, float('nan'), 1.0])], right, 0.1) == 'it gives numbers that are not finite'


def test_key_names_the_machine():
    machine = describe_machine(torch.device('cpu'))
    assert machine['torch'] == torch.__version__
    assert machine['device'].endswith(f' x {torch.get_num_threads()}')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_attention_on_a_cpu(dtype, monkeypatch):
    state = torch.get_rng_state()
    shapes = [SHAPE, SHAPE, SHAPE._replace(shared=False)]
    with torch.no_grad():  # whatever the caller is doing
        choice = choose_attention(shapes, 'cpu', dtype, budget=0.0)
    assert choice.name in choice.seconds
    assert set(choice.seconds) == {'sdpa', 'plain'}
    assert choice.excluded == {}
    assert torch.equal(torch.get_rng_state(), state)
    assert attention_backend() == 'sdpa'
    assert choose_attention(shapes, 'cpu', dtype).source == 'remembered'
    assert choose_attention(shapes, 'cpu', dtype, compiled=True, requested='flex').name == 'flex'
    monkeypatch.setenv('RANDSAC_MM_ATTENTION', 'plain')
    assert choose_attention(shapes, 'cpu', dtype).report() == 'attention: plain (RANDSAC_MM_ATTENTION)'


@pytest.mark.parametrize(
    ('wrong', 'reason'),
    [
        (lambda q, k, v, mask: plain_attention(q, k, v, None), 'its error is'),
        (lambda q, k, v, mask: plain_attention(q * float('inf'), k, v, mask), 'it gives numbers that are not finite'),
        (lambda q, k, v, mask: plain_attention(q.detach() + 0 * q, k, v, mask), 'its error is 1.0e+00'),
    ],
    ids=['ignores the mask', 'not finite', 'no gradient'],
)
def test_a_wrong_attention_is_never_chosen(monkeypatch, wrong, reason):
    backends = attention_choice.attention.__globals__['_BACKENDS']
    monkeypatch.setitem(backends, 'sdpa', wrong)
    choice = choose_attention([SHAPE], 'cpu', torch.float32, budget=0.0)
    assert choice.name == 'plain'
    assert choice.excluded['sdpa'].startswith(reason)
    assert choice.excluded['sdpa'].endswith('(heads of 4 dims, 7 queries, 11 keys)')


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_attention_on_a_gpu(dtype):
    choice = choose_attention([SHAPE, AttentionShape(8, 12, 128, 128, 64)], 'cuda', dtype)
    assert set(choice.seconds) == {'sdpa', 'plain', 'triton'}
    assert choice.excluded == {}


class Processes:
    """Stand in for torch.distributed: this process has a rank, and hears what rank 0 said."""

    def __init__(self, rank, said=None):
        self.rank, self.said = rank, said

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def get_rank(self):
        return self.rank

    def broadcast_object_list(self, objects, src):
        assert src == 0
        if self.rank == 0:
            self.said = list(objects)
        else:
            objects[:] = self.said


def test_rank_0_chooses_for_all(monkeypatch):
    choice = Choice('kind', 'b', 'measured', {'b': 0.1}, {'a': 'slow'})
    assert choose_together(lambda: choice) is choice  # alone
    first = Processes(0)
    monkeypatch.setattr(torch, 'distributed', first)
    assert choose_together(lambda: choice) == choice
    monkeypatch.setattr(torch, 'distributed', Processes(1, first.said))
    assert choose_together(lambda: pytest.fail('rank 1 measures')) == choice


def test_rank_0_fails_for_all(monkeypatch):
    def fail():
        raise ValueError('no such back-end')

    first = Processes(0)
    for processes in (lambda: first, lambda: Processes(1, first.said)):
        monkeypatch.setattr(torch, 'distributed', processes())
        with pytest.raises(RuntimeError, match='rank 0 could not choose a back-end: ValueError: no such back-end'):
            choose_together(fail)
