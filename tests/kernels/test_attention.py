"""Contract: query i attends to key j where query_rank >= key_rank; all back-ends agree with float64, gradients too.

The output of a query without any key is finite and does not disturb the gradients of others.
"""

import sys
from typing import NamedTuple

import pytest
import torch

from randsac_mm.kernels import attention, check_backend, choose_backend, triton_ranks
from randsac_mm.segments import NEVER, Mask

INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason='runs as triton-cuda, not interpreted')
ON_CPU = [
    pytest.param(name, 'cpu', id=f'{name}-cpu', marks=[INTERPRETED] if name == 'triton' else [])
    for name in ('sdpa', 'plain', 'triton')
]
ON_GPU = [pytest.param(name, 'cuda', id=f'{name}-cuda', marks=pytest.mark.gpu) for name in ('sdpa', 'plain', 'triton')]
everywhere = pytest.mark.parametrize(('backend', 'device'), [*ON_CPU, *ON_GPU])
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
    """Draw a problem; queries, keys and values are strided views, as of a joint projection."""
    q = torch.randn(images, queries, heads, dims).transpose(1, 2)
    k, v = torch.randn(images, keys, 2, heads, dims).permute(2, 0, 3, 1, 4)
    rows = 1 if shared else images
    key_rank = torch.randint(segments, (rows, keys))
    query_rank = key_rank if queries == keys else torch.randint(segments, (rows, queries))
    if relation == 'target':
        key_rank = key_rank.masked_fill(key_rank == 0, NEVER)
    if relation == 'memory':
        query_rank = query_rank - 1
    return Problem(q, k, v, query_rank, key_rank, torch.randn(images, queries, heads * dims))


def visible(problem):
    """Return the mask of a problem by the definition, (B, 1, Q, N)."""
    seen = problem.query_rank[:, None, :, None] >= problem.key_rank[:, None, None, :]
    return seen.expand(len(problem.query), -1, -1, -1)


def reference(problem):
    """Attend in float64 by the definition; outputs of queries without any key are 0."""
    q, k, v = (tensor.detach().double().requires_grad_() for tensor in problem[:3])
    seen = visible(problem)
    logits = torch.einsum('bhqd,bhnd->bhqn', q, k) / q.shape[3] ** 0.5
    weights = logits.masked_fill(~seen, -1e30).softmax(3) * seen
    out = torch.einsum('bhqn,bhnd->bqhd', weights, v).flatten(2)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), problem.grad.double())]


def check(problem, backend='plain', device='cpu', dtype=torch.float32, attend=attention):
    """Compare outputs and gradients with float64, as a model uses them: rows without any key are not read."""
    tensors = [tensor.to(device, dtype).requires_grad_() for tensor in problem[:3]]
    mask = Mask(problem.query_rank.int().to(device), problem.key_rank.int().to(device)).prepare(backend, dtype)
    out = attend(*tensors, mask)
    read = visible(problem).any(3).transpose(1, 2).to(device)  # (B, Q, 1)
    results = [out, *torch.autograd.grad(out, tensors, problem.grad.to(out) * read)]
    assert all(tensor.dtype == dtype and tensor.isfinite().all() for tensor in results)
    results[0] = out * read
    q, k, v = (tensor.to(dtype) for tensor in problem[:3])
    expected = reference(problem._replace(query=q, key=k, value=v))
    for name, ours, theirs in zip(('output', 'dq', 'dk', 'dv'), results, expected, strict=True):
        error = (ours.detach().cpu().double() - theirs).abs().max() / theirs.abs().max().clamp_min(0.1)
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
    'large logits': dict(queries=9, keys=9, scale=30),
    'bfloat16': dict(queries=31, keys=67, dims=16, relation='memory', dtype=torch.bfloat16),
}


@everywhere
@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_agrees_with_float64(backend, device, case):
    case = {'dtype': torch.float32, 'scale': 1, **case}
    dtype, scale = case.pop('dtype'), case.pop('scale')
    problem = make_problem(**case)
    check(problem._replace(query=scale * problem.query), backend, device, dtype)


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize('tokens', [2, 15, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 144, 196, 255, 257, 600])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_every_edge_of_a_tile(backend, device, tokens, dtype):
    check(make_problem(1, 1, tokens, tokens, dims=16, relation='target', segments=9), backend, device, dtype)
    check(make_problem(1, 1, tokens, 97, dims=4, relation='memory', segments=9), backend, device, dtype)


@pytest.mark.parametrize(('backend', 'device'), [*ON_CPU[1:], *ON_GPU[1:]])
def test_queries_without_keys_give_zero_and_no_gradient(backend, device):
    problem = make_problem(relation='memory', queries=6, keys=9)
    problem.query_rank[0] = -1
    tensors = [tensor.to(device).requires_grad_() for tensor in problem[:3]]
    mask = Mask(problem.query_rank.int().to(device), problem.key_rank.int().to(device))
    out = attention(*tensors, mask.prepare(backend, torch.float32))
    assert out[0].eq(0).all()
    assert out[1].ne(0).any()
    for grad in torch.autograd.grad(out, tensors, torch.full_like(out, 7.0)):  # although somebody reads them here
        assert grad[0].eq(0).all()
        assert grad[1].ne(0).any()


def test_without_a_mask_every_query_attends_to_every_key():
    q, k, v = make_problem(queries=3, keys=29)[:3]
    torch.testing.assert_close(attention(q, k, v), attention(q, k, v, Mask(torch.zeros(1, 3), torch.zeros(1, 29))))


WRONG = {
    'ignores the mask': lambda q, k, v, mask: attention(q, k, v),
    'sees its own segment': lambda q, k, v, mask: attention(q, k, v, mask._replace(query_rank=mask.query_rank + 1)),
    'shares the first image': lambda q, k, v, mask: attention(q, k, v, Mask(mask.query_rank[:1], mask.key_rank[:1])),
    'stops gradients': lambda q, k, v, mask: attention(q, k.detach() + 0 * k, v, mask),
}


@pytest.mark.parametrize('wrong', WRONG.values(), ids=WRONG)
def test_a_wrong_back_end_does_not_pass(wrong):
    with pytest.raises(AssertionError, match=r'(output|dk): '):
        check(make_problem(relation='memory', queries=11, keys=17), attend=wrong)


@pytest.mark.parametrize('shape', [dict(queries=6), dict(keys=4), dict(images=3)])
def test_a_mask_of_other_tokens_is_refused(shape):
    rank = torch.zeros(2, 5)
    problem = make_problem(**{'queries': 5, 'keys': 5, **shape})
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
    ('types', 'dims', 'value'),
    [
        ([torch.float64] * 3, 5, 'float64'),
        ([torch.float32, torch.float32, torch.bfloat16], 5, 'bfloat16'),
        ([torch.float32] * 3, 130, '130 dims'),
    ],
)
def test_triton_refuses_what_it_cannot_compute(types, dims, value):
    problem = make_problem(dims=dims)
    tensors = [tensor.to(dtype) for tensor, dtype in zip(problem, types, strict=False)]
    with pytest.raises(ValueError, match=value):
        attention(*tensors, Mask(problem.query_rank, problem.key_rank, 'triton'))


@pytest.mark.parametrize(('installed', 'reason'), [(False, 'not installed'), (True, 'GPU')])
def test_back_ends_are_refused_where_they_cannot_work(monkeypatch, installed, reason):
    monkeypatch.setattr(triton_ranks, 'INSTALLED', installed)
    monkeypatch.setattr(triton_ranks, 'INTERPRETED', False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    check_backend('auto')
    with pytest.raises(ValueError, match=reason):
        check_backend('triton')
    with pytest.raises(ValueError, match='flex'):
        check_backend('flex')
