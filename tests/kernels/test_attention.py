"""Contract: query i attends to key j where query_rank >= key_rank; all back-ends agree with float64, gradients too.

The output of a query without any key is finite (0 for plain and triton) and does not disturb the gradients of others.
"""

import sys
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randsac_mm.kernels import attention, check_backend, choose_backend, triton_ranks
from randsac_mm.segments import NEVER, Mask

GPU = pytest.mark.gpu
ON_CPU = [
    pytest.param('sdpa', 'cpu', id='sdpa'),
    pytest.param('plain', 'cpu', id='plain'),
    pytest.param(
        'triton',
        'cpu',
        id='triton-interpreted',
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason='runs as triton-cuda, not interpreted'),
    ),
]
ON_GPU = [pytest.param(name, 'cuda', id=f'{name}-cuda', marks=GPU) for name in ('sdpa', 'plain', 'triton')]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest number, or of 0.1 where all are smaller


class Problem(NamedTuple):
    """Queries (B, h, Q, d), keys and values (B, h, N, d), ranks, gradient of the output (B, Q, h * d)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_rank: torch.Tensor
    key_rank: torch.Tensor
    grad: torch.Tensor


def make_problem(images=2, heads=2, queries=7, keys=7, dims=5, relation='source', shared=False, segments=4):
    """Draw a problem; queries, keys and values of equal length are strided views of one joint projection."""
    if queries == keys:
        q, k, v = torch.randn(images, queries, 3 * heads * dims).unflatten(2, (3, heads, dims)).permute(2, 0, 3, 1, 4)
    else:
        q = torch.randn(images, queries, heads, dims).transpose(1, 2)
        k, v = torch.randn(images, keys, 2 * heads * dims).unflatten(2, (2, heads, dims)).permute(2, 0, 3, 1, 4)
    grad = torch.randn(images, queries, heads * dims)
    rows = 1 if shared else images
    key_rank = torch.randint(segments, (rows, keys))
    query_rank = key_rank if queries == keys else torch.randint(segments, (rows, queries))
    if relation == 'target':
        key_rank = key_rank.masked_fill(key_rank == 0, NEVER)
    if relation == 'memory':
        query_rank = query_rank - 1
    return Problem(q, k, v, query_rank, key_rank, grad)


def visible(problem):
    """Draw the mask of a problem from the definition, pair by pair."""
    images = len(problem.query)
    query_rank, key_rank = (rank.expand(images, -1) for rank in (problem.query_rank, problem.key_rank))
    return torch.stack([i[:, None] >= j[None, :] for i, j in zip(query_rank, key_rank, strict=True)])[:, None]


def reference(problem):
    """Attend in float64 by the definition; outputs of queries without any key are 0."""
    tensors = [tensor.detach().double().requires_grad_() for tensor in problem[:3]]
    q, k, v = tensors
    seen = visible(problem)
    logits = torch.einsum('bhqd,bhnd->bhqn', q, k) / q.shape[3] ** 0.5
    top = logits.detach().masked_fill(~seen, -1e30).amax(3, keepdim=True)
    weights = (logits - top).masked_fill(~seen, -1e30).exp() * seen
    out = torch.einsum('bhqn,bhnd->bqhd', weights / weights.sum(3, keepdim=True).clamp_min(1e-30), v).flatten(2)
    return [out.detach(), *torch.autograd.grad(out, tensors, problem.grad.double())]


def run(attend, problem, backend, device='cpu', dtype=torch.float32):
    """Attend with ``attend``, as a model does: rows without any key are not read."""
    tensors = [tensor.detach().to(device, dtype).requires_grad_() for tensor in problem[:3]]
    mask = Mask(problem.query_rank.int().to(device), problem.key_rank.int().to(device)).prepare(backend, dtype)
    out = attend(*tensors, mask)
    read = visible(problem).any(3).transpose(1, 2)  # (B, Q, 1)
    grads = torch.autograd.grad(out, tensors, (problem.grad * read).to(out))
    return [tensor.detach().cpu() for tensor in (out, *grads)], read


def check(problem, backend='plain', device='cpu', dtype=torch.float32, attend=attention):
    results, read = run(attend, problem, backend, device, dtype)
    for tensor in results:
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()
    q, k, v = (tensor.to(dtype) for tensor in problem[:3])
    expected = reference(problem._replace(query=q, key=k, value=v))
    results[0] = results[0] * read
    for name, ours, theirs in zip(('output', 'dq', 'dk', 'dv'), results, expected, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp_min(0.1)
        assert error < TOLERANCE[dtype], f'{name}: {error:.1e}'


CASES = {
    'source': dict(),
    'target, empty rows': dict(relation='target', queries=13, keys=13, segments=3),
    'memory, empty rows': dict(relation='memory', queries=11, keys=17),
    'shared': dict(shared=True, queries=19, keys=19),
    'shared memory': dict(shared=True, relation='memory', queries=5, keys=23, segments=2),
    'one token': dict(queries=1, keys=1, segments=1),
    'one token without keys': dict(relation='memory', queries=1, keys=1, segments=1),
    'wide heads': dict(images=1, heads=1, dims=128),
    'several tiles': dict(images=1, queries=37, keys=70, dims=50, relation='memory'),  # of 32 tokens here
}


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_agrees_with_float64(backend, device, case):
    check(make_problem(**case), backend, device)


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
def test_half_precision(backend, device):
    check(make_problem(queries=31, keys=67, dims=16, relation='memory'), backend, device, torch.bfloat16)


@pytest.mark.parametrize(('backend', 'device'), ON_CPU)
@settings(max_examples=3)
@given(data=st.data())
def test_any_length(backend, device, data):
    longest = 40 if backend == 'triton' else 600  # the interpreter is slow; more lengths come below
    queries, keys = data.draw(st.integers(1, longest)), data.draw(st.integers(1, longest))
    problem = make_problem(
        1, 1, queries, keys, dims=4, relation=data.draw(st.sampled_from(['source', 'target', 'memory'])), segments=9
    )
    check(problem, backend, device)


@pytest.mark.slow
@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
@pytest.mark.parametrize('tokens', [2, 15, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 144, 196, 255, 257, 600])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=['float32', 'bfloat16'])
def test_every_edge_of_a_tile(backend, device, tokens, dtype):
    check(make_problem(1, 1, tokens, tokens, dims=16, relation='target', segments=9), backend, device, dtype)


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU[1:], *ON_GPU[1:]])
def test_queries_without_keys_give_zero_and_no_gradient(backend, device):
    problem = make_problem(relation='memory', queries=6, keys=9)
    problem.query_rank[0] = -1
    tensors = [tensor.detach().to(device).requires_grad_() for tensor in problem[:3]]
    mask = Mask(problem.query_rank.int().to(device), problem.key_rank.int().to(device))
    out = attention(*tensors, mask.prepare(backend, torch.float32))
    assert out[0].eq(0).all()
    assert out[1].ne(0).any()
    for grad in torch.autograd.grad(out, tensors, torch.full_like(out, 7.0)):  # although somebody reads them here
        assert grad[0].eq(0).all()
        assert grad[1].ne(0).any()


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
def test_large_logits_stay_finite(backend, device):
    problem = make_problem(queries=9, keys=9)
    check(problem._replace(query=30 * problem.query), backend, device)


def test_without_a_mask_every_query_attends_to_every_key():
    problem = make_problem(queries=3, keys=29)
    rank = torch.zeros(1, 29)
    out = attention(*problem[:3])
    torch.testing.assert_close(out, attention(*problem[:3], Mask(rank[:, :3], rank)))


def ignores_the_mask(query, key, value, mask):
    return attention(query, key, value, None)


def sees_its_own_segment_too(query, key, value, mask):
    return attention(query, key, value, mask._replace(query_rank=mask.query_rank + 1))


def shares_the_first_image(query, key, value, mask):
    return attention(query, key, value, Mask(mask.query_rank[:1], mask.key_rank[:1]))


@pytest.mark.parametrize('wrong', [ignores_the_mask, sees_its_own_segment_too, shares_the_first_image])
def test_a_wrong_back_end_does_not_pass(wrong):
    with pytest.raises(AssertionError, match='output: '):
        check(make_problem(relation='memory', queries=11, keys=17), attend=wrong)


def test_a_back_end_that_stops_gradients_does_not_pass():
    with pytest.raises(AssertionError, match='dk: '):
        check(make_problem(), attend=lambda q, k, v, mask: attention(q, k.detach() + 0 * k, v, mask))


@pytest.mark.parametrize('shape', [dict(queries=6), dict(keys=4), dict(images=3)])
def test_a_mask_of_other_tokens_is_refused(shape):
    rank = torch.zeros(2, 5)
    problem = make_problem(**{**dict(queries=5, keys=5), **shape})
    with pytest.raises(ValueError, match=r'\(2, 5\)'):
        attention(*problem[:3], Mask(rank, rank))


def test_auto_is_a_rule():
    cpu, gpu = torch.device('cpu'), torch.device('cuda')
    assert choose_backend('auto', cpu, torch.float32) == choose_backend('auto', gpu, torch.bfloat16) == 'sdpa'
    assert choose_backend('triton', cpu, torch.float32) == 'triton'
    torch.use_deterministic_algorithms(True)
    try:
        assert choose_backend('auto', gpu, torch.bfloat16) == 'plain'
    finally:
        torch.use_deterministic_algorithms(False)


def test_cudnn_is_never_used_on_cuda(monkeypatch):
    module = sys.modules['randsac_mm.kernels.attention']  # the package has a function of this name
    for masked in (True, False):
        with module._trusted_kernels(torch.device('cuda'), masked):
            assert not torch.backends.cuda.cudnn_sdp_enabled()
            assert torch.backends.cuda.flash_sdp_enabled() != masked


@pytest.mark.parametrize(
    ('change', 'value'),
    [
        (lambda q, k, v: (q.double(), k.double(), v.double()), 'float64'),
        (lambda q, k, v: (q, k, v.bfloat16()), 'bfloat16'),
        (lambda q, k, v: [x.repeat(1, 1, 1, 26) for x in (q, k, v)], '130 dims'),
    ],
    ids=['float64', 'mixed', 'wide'],
)
def test_triton_refuses_what_it_cannot_compute(change, value):
    problem = make_problem()
    with pytest.raises(ValueError, match=value):
        attention(*change(*problem[:3]), Mask(problem.query_rank, problem.key_rank, 'triton'))


@pytest.mark.parametrize(('installed', 'reason'), [(False, 'not installed'), (True, 'GPU')])
def test_triton_is_refused_where_it_cannot_work(monkeypatch, installed, reason):
    monkeypatch.setattr(triton_ranks, 'INSTALLED', installed)
    monkeypatch.setattr(triton_ranks, 'INTERPRETED', False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    check_backend('auto')
    with pytest.raises(ValueError, match=reason):
        check_backend('triton')


def test_an_unknown_back_end_is_refused():
    with pytest.raises(ValueError, match='flex'):
        check_backend('flex')
