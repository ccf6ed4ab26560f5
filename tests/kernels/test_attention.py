"""Contract: query i attends to key j where query_rank >= key_rank; all back-ends agree with float64, gradients too.

A query without any key may come out as anything finite (0 where a back-end says so) and, since nobody reads it, must
not disturb the gradients of others.
"""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from randsac_mm.kernels.attention import attention, make_mask, use_attention
from randsac_mm.kernels.masks import NEVER

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
ON_GPU = [pytest.param(name, 'cuda', id=f'{name}-cuda', marks=GPU) for name in ('sdpa', 'plain', 'flex', 'triton')]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest number, or of 0.1 where all are smaller


class Problem(NamedTuple):
    """Queries (B, h, Q, d), keys and values (B, h, N, d), ranks or None, gradient of the output (B, Q, h * d)."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_rank: torch.Tensor | None
    key_rank: torch.Tensor | None
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
    if relation == 'none':
        return Problem(q, k, v, None, None, grad)
    if relation == 'target':
        key_rank = key_rank.masked_fill(key_rank == 0, NEVER)
    if relation == 'memory':
        query_rank = query_rank - 1
    return Problem(q, k, v, query_rank, key_rank, grad)


def visible(problem):
    """Draw the mask of a problem from the definition, pair by pair."""
    images, _, queries, _ = problem.query.shape
    keys = problem.key.shape[2]
    if problem.query_rank is None:
        return torch.ones(images, 1, queries, keys, dtype=torch.bool)
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


def run(attend, problem, device='cpu', dtype=torch.float32):
    """Attend with ``attend``, as a model does: nobody reads rows without any key."""
    tensors = [tensor.detach().to(device, dtype).requires_grad_() for tensor in problem[:3]]
    mask = None
    if problem.query_rank is not None:
        mask = make_mask(problem.query_rank.to(device), problem.key_rank.to(device), dtype)
    out = attend(*tensors, mask)
    read = visible(problem).any(3).transpose(1, 2)  # (B, Q, 1)
    grads = torch.autograd.grad(out, tensors, (problem.grad * read).to(out))
    return [tensor.detach().cpu() for tensor in (out, *grads)], read


def check(attend, problem, device='cpu', dtype=torch.float32):
    results, read = run(attend, problem, device, dtype)
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
    'no mask': dict(relation='none', queries=3, keys=29),
    'one token': dict(queries=1, keys=1, segments=1),
    'one token without keys': dict(relation='memory', queries=1, keys=1, segments=1),
    'wide heads': dict(images=1, heads=1, dims=128),
    'several tiles': dict(images=1, queries=37, keys=70, dims=50, relation='memory'),  # of 32 tokens here
}


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_agrees_with_float64(backend, device, case):
    with use_attention(backend):
        check(attention, make_problem(**case), device)


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
def test_half_precision(backend, device):
    with use_attention(backend):
        check(attention, make_problem(queries=31, keys=67, dims=16, relation='memory'), device, torch.bfloat16)


@pytest.mark.parametrize(('backend', 'device'), ON_CPU)
@settings(max_examples=3)
@given(data=st.data())
def test_any_length(backend, device, data):
    longest = 40 if backend == 'triton' else 600  # the interpreter is slow; more lengths come below
    queries, keys = data.draw(st.integers(1, longest)), data.draw(st.integers(1, longest))
    problem = make_problem(
        1, 1, queries, keys, dims=4, relation=data.draw(st.sampled_from(['source', 'target', 'memory'])), segments=9
    )
    with use_attention(backend):
        check(attention, problem, device)


@pytest.mark.slow
@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
@pytest.mark.parametrize('tokens', [2, 15, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 144, 196, 255, 257, 600])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=['float32', 'bfloat16'])
def test_every_edge_of_a_tile(backend, device, tokens, dtype):
    with use_attention(backend):
        check(attention, make_problem(1, 1, tokens, tokens, dims=16, relation='target', segments=9), device, dtype)


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU[1:], *ON_GPU[1:]])
def test_queries_without_keys_give_zero_and_no_gradient(backend, device):
    problem = make_problem(relation='memory', queries=6, keys=9)
    problem.query_rank[0] = -1
    tensors = [tensor.detach().to(device).requires_grad_() for tensor in problem[:3]]
    with use_attention(backend):
        mask = make_mask(problem.query_rank.to(device), problem.key_rank.to(device), torch.float32)
        out = attention(*tensors, mask)
    assert out[0].eq(0).all()
    assert out[1].ne(0).any()
    for grad in torch.autograd.grad(out, tensors, torch.full_like(out, 7.0)):  # although somebody reads them here
        assert grad[0].eq(0).all()
        assert grad[1].ne(0).any()


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
def test_large_logits_stay_finite(backend, device):
    problem = make_problem(queries=9, keys=9)
    with use_attention(backend):
        check(attention, problem._replace(query=30 * problem.query), device)


def ignores_the_mask(query, key, value, mask):
    return attention(query, key, value, None)


def sees_its_own_segment_too(query, key, value, mask):
    return attention(query, key, value, make_mask(mask.query_rank + 1, mask.key_rank, query.dtype))


def shares_the_first_image(query, key, value, mask):
    return attention(query, key, value, make_mask(mask.query_rank[:1], mask.key_rank[:1], query.dtype))


@pytest.mark.parametrize('wrong', [ignores_the_mask, sees_its_own_segment_too, shares_the_first_image])
def test_a_wrong_back_end_does_not_pass(wrong):
    with pytest.raises(AssertionError, match='output: '):
        check(wrong, make_problem(relation='memory', queries=11, keys=17))


def test_a_back_end_that_stops_gradients_does_not_pass():
    with pytest.raises(AssertionError, match='dk: '):
        check(lambda q, k, v, mask: attention(q, k.detach() + 0 * k, v, mask), make_problem())
