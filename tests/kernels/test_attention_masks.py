"""Contract: ranks that make no sense are refused; every form of a mask says the same; the back-end in force decides."""

import importlib
import subprocess
import sys

import pytest
import torch

from randsac_mm.kernels import flex, sdpa, triton_ranks
from randsac_mm.kernels.attention import attention, attention_backend, attention_backends, make_mask, use_attention
from randsac_mm.kernels.masks import NEVER, additive_bias, may_attend, open_empty_rows, sees_something

RANK = torch.tensor([[0, 0, 1, 2, 2]])
INF = float('inf')


def draw(images=2, heads=3, queries=5, keys=5, dims=4, **kwargs):
    return [torch.randn(images, heads, tokens, dims, **kwargs) for tokens in (queries, keys, keys)]


def test_relation_drawn():
    expected = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert torch.equal(may_attend(RANK, RANK)[0, 0], expected.bool())
    strict = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]])
    assert torch.equal(may_attend(RANK - 1, RANK)[0, 0], strict.bool())
    assert sees_something(RANK - 1, RANK).tolist() == [[False, False, True, True, True]]


def test_open_empty_rows():
    queries, keys = torch.tensor([[0, 1, 5]], dtype=torch.int32), torch.tensor([[1, 2, 3]], dtype=torch.int32)
    opened = open_empty_rows(queries, keys)
    assert may_attend(opened, keys)[0, 0].int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1]]
    assert queries.tolist() == [[0, 1, 5]], 'the argument was written to'


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_bias_of_any_type(dtype):
    inf, rank = float('inf'), torch.tensor([[0, 1]], dtype=torch.int32).expand(3, 2)
    bias = additive_bias(rank, rank, dtype)
    assert bias.dtype == dtype
    assert bias.tolist() == [[[[0.0, -inf], [0.0, 0.0]]]] * 3


def test_bias_opens_empty_rows_and_hides_what_is_never_seen():
    keys = RANK.masked_fill(RANK == 0, NEVER).int()
    bias = additive_bias(RANK.int(), keys, torch.bfloat16)
    assert bias.dtype == torch.bfloat16
    rows = [[0, 0, 0, 0, 0]] * 2 + [[-INF, -INF, 0, -INF, -INF]] + [[-INF, -INF, 0, 0, 0]] * 2
    assert bias[0, 0].float().tolist() == rows


@pytest.mark.parametrize('keys', [1, 15, 16, 60, 128, 135])
def test_bias_rows_are_aligned_also_after_expanding(keys):
    bias = additive_bias(torch.zeros(1, 7, dtype=torch.int32), torch.zeros(1, keys, dtype=torch.int32), torch.float32)
    expanded = bias.expand(3, 2, 7, keys)
    assert all(stride % 8 == 0 for stride in expanded.stride()[:3])
    assert expanded.stride(3) == 1


def test_ranks_of_any_integer_type_become_int32():
    mask = make_mask(RANK.long(), RANK.to(torch.int16), torch.float32)
    assert mask.query_rank.dtype == mask.key_rank.dtype == torch.int32


@pytest.mark.parametrize(
    ('query_rank', 'key_rank', 'message'),
    [
        (RANK[0], RANK, r'query_rank has shape \(5,\): it must be \(images or 1, tokens\)'),
        (RANK, RANK[:, :0], r'key_rank has shape \(1, 0\): .* at least one token'),
        (RANK, RANK.float(), r'key_rank is torch.float32: ranks are integers'),
        (RANK > 0, RANK, r'query_rank is torch.bool: ranks are integers'),
        (RANK.expand(2, -1), RANK.expand(3, -1), 'query_rank is for 2 images and key_rank for 3: both need the same'),
    ],
)
def test_senseless_ranks(query_rank, key_rank, message):
    with pytest.raises(ValueError, match=message):
        make_mask(query_rank, key_rank, torch.float32)


@pytest.mark.parametrize('shape', [dict(queries=6), dict(keys=4), dict(images=3)])
def test_a_mask_of_other_tokens(shape):
    rank = RANK.expand(2, -1)
    with pytest.raises(ValueError, match=r'the mask has .*_rank of shape \(2, 5\), but there are . images of . tokens'):
        attention(*draw(**shape), make_mask(rank, rank, torch.float32))


@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'triton'])
def test_a_mask_made_for_another_back_end_or_type(backend):
    tensors = draw()
    expected = attention(*tensors, make_mask(RANK, RANK, torch.float32))
    with use_attention('plain'):
        bare = make_mask(RANK, RANK, torch.float32)
    assert bare.bias is None
    double = make_mask(RANK, RANK, torch.float64)
    with use_attention(backend):
        for mask in (bare, double):
            torch.testing.assert_close(attention(*tensors, mask), expected)


@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'triton'])
def test_a_tensor_is_added_whatever_the_back_end(backend):
    tensors, bias = draw(), torch.randn(1, 3, 5, 5, dtype=torch.float64)
    q, k, v = tensors
    weights = (q @ k.mT / 2 + bias.float()).softmax(-1)
    with use_attention(backend):
        torch.testing.assert_close(attention(*tensors, bias), (weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize('masked', [True, False])
def test_cudnn_is_never_used_on_cuda(masked):
    cuda = torch.backends.cuda
    before = cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()
    with sdpa._pinned(torch.device('cuda'), masked):
        assert not cuda.cudnn_sdp_enabled()
        assert cuda.flash_sdp_enabled() != masked
        assert cuda.mem_efficient_sdp_enabled()
        assert cuda.math_sdp_enabled()
    assert before == (cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled())


@pytest.fixture
def flex_uncompiled(monkeypatch):
    """Run FlexAttention as it is: slow, but without a minute of compilation."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(flex, '_compiled', lambda: flex_attention)


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
@pytest.mark.parametrize('shared', [True, False])
@pytest.mark.parametrize(('queries', 'keys'), [(5, 9), (128, 131), (1, 256)])
def test_flex_forward(flex_uncompiled, shared, queries, keys):
    ranks = [torch.randint(5, (1 if shared else 2, tokens)) for tokens in (queries, keys)]
    ranks[0] -= 1
    tensors = draw(queries=queries, keys=keys, dims=16)
    with use_attention('plain'):
        expected = attention(*tensors, make_mask(*ranks, torch.float32))
    with use_attention('flex'):
        mask = make_mask(*ranks, torch.float32)
        torch.testing.assert_close(attention(*tensors, mask), expected)
        torch.testing.assert_close(attention(*tensors, mask._replace(blocks=None)), expected)
        torch.testing.assert_close(attention(*tensors), sdpa.sdpa_attention(*tensors, None).transpose(1, 2).flatten(2))


def test_flex_tiles_are_those_of_the_drawn_mask():
    from torch.nn.attention.flex_attention import create_block_mask

    ranks = [torch.arange(tokens).mul(7).div(tokens, rounding_mode='floor').int()[None] for tokens in (512, 640)]
    ours = flex.make_blocks(*ranks)
    theirs = create_block_mask(lambda b, h, i, j: ranks[0][0, i] >= ranks[1][0, j], None, None, 512, 640, 'cpu')
    assert 0 < ours.sparsity() < 100
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for name in ('kv_num_blocks', 'full_kv_num_blocks', 'q_num_blocks', 'full_q_num_blocks'):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ('kv', 'full_kv', 'q', 'full_q'):
        rows = zip(getattr(ours, f'{name}_num_blocks').flatten(), strict=True)
        pairs = zip(
            rows,
            getattr(ours, f'{name}_indices').flatten(0, 2),
            getattr(theirs, f'{name}_indices').flatten(0, 2),
            strict=True,
        )
        for (count,), our_row, their_row in pairs:
            assert torch.equal(our_row[:count], their_row[:count]), name


def test_flex_refuses_gradients_on_a_cpu():
    with use_attention('flex'), pytest.raises(ValueError, match="'flex' has no backward on a CPU: choose 'sdpa'"):
        attention(*draw(requires_grad=True), make_mask(RANK, RANK, torch.float32))


@pytest.mark.parametrize(
    ('tensors', 'message'),
    [
        (draw(dtype=torch.float64), "'triton' got torch.float64, .* must share one of torch.float32"),
        ([*draw()[:2], draw(dtype=torch.bfloat16)[2]], "'triton' got torch.float32, torch.float32 and torch.bfloat16"),
        (draw(dims=129), "'triton': heads of 129 dims, at most 128; use 'sdpa'"),
    ],
    ids=['float64', 'mixed', 'wide'],
)
def test_triton_refuses(monkeypatch, tensors, message):
    monkeypatch.setattr(triton_ranks, 'INTERPRETED', True)
    with use_attention('triton'), pytest.raises(ValueError, match=message):
        attention(*tensors)


def test_without_triton(monkeypatch):
    monkeypatch.setattr(triton_ranks, 'INSTALLED', False)
    assert attention_backends()['triton'].startswith('Triton is not installed')
    with pytest.raises(ValueError, match=r"'triton' is not available: Triton is not .* Choose 'sdpa' or 'plain'"):
        use_attention('triton')
    assert attention_backend() == 'sdpa'


def test_triton_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(triton_ranks, 'INTERPRETED', False)
    assert 'Triton compiles for GPUs, not for cpu' in attention_backends(torch.device('cpu'))['triton']
    module = importlib.import_module('randsac_mm.kernels.attention')  # the package has a function of this name
    monkeypatch.setattr(module, '_backend', 'triton')
    with pytest.raises(ValueError, match='Triton compiles for GPUs, not for cpu'):
        attention(*draw())


def test_back_end_in_force():
    assert attention_backend() == 'sdpa'
    with use_attention('plain'):
        assert attention_backend() == 'plain'
        with pytest.raises(ZeroDivisionError), use_attention('sdpa'):
            1 / 0  # noqa: B018
        assert attention_backend() == 'plain'
    use_attention('plain')
    assert attention_backend() == 'plain'
    use_attention('sdpa')
    with pytest.raises(ValueError, match="attention back-end 'cudnn' must be one of 'sdpa', 'plain', 'flex', 'triton'"):
        use_attention('cudnn')
    assert attention_backends() == dict.fromkeys(('sdpa', 'plain', 'flex'), None) | {'triton': triton_ranks.missing()}


@pytest.mark.slow
def test_import_without_triton():
    code = """
import sys
sys.modules['triton'] = None
import torch
from randsac_mm.kernels import triton_kernels, triton_ranks
from randsac_mm.kernels.attention import attention
assert triton_kernels.triton is None
print(tuple(attention(*torch.ones(3, 1, 2, 5, 4)).shape))
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith('(1, 5, 8)')
