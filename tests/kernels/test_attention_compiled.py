"""Contract: torch.compile takes every back-end whole, once for all masks of a shape, and gives the same numbers."""

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from randsac_mm.kernels import NEVER, flex, triton_ranks
from randsac_mm.kernels.attention import attention, make_mask, use_attention

pytestmark = [
    pytest.mark.slow,
    # A CUDA build of torch on a machine without a GPU says so when it compiles for the first time.
    pytest.mark.filterwarnings('ignore::DeprecationWarning:torch'),
]


def draw(tokens=20, requires_grad=True, device='cpu', dtype=torch.float32):
    x = torch.randn(2, tokens, 3 * 3 * 16, device=device, dtype=dtype)
    return [part.requires_grad_(requires_grad) for part in x.unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4).unbind(0)]


def compare(compiled, tensors, mask):
    """Compare outputs and gradients of compiled and eager attention."""
    ours, eager = compiled(*tensors, mask), attention(*tensors, mask)
    torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
    if ours.requires_grad:
        weight = torch.randn_like(eager)
        pair = [torch.autograd.grad(out, tensors, weight) for out in (ours, eager)]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'triton', 'flex'])
def test_one_graph_serves_all_masks(backend):
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    with use_attention(backend):
        for _ in range(3):
            rank = torch.randint(4, (2, 20))
            tensors = draw(requires_grad=backend != 'flex')  # no gradients on a CPU there
            compare(compiled, tensors, make_mask(rank - 1, rank, torch.float32))
    assert counter.frame_count == 1


def test_changing_the_back_end_is_noticed():
    counter = CompileCounterWithBackend('eager')
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    tensors = draw()
    rank = torch.zeros(1, 20, dtype=torch.int32)
    mask = make_mask(rank - 1, rank, torch.float32)  # nobody sees anybody, where back-ends differ
    assert compiled(*tensors, mask).ne(0).all()
    with use_attention('plain'):
        assert compiled(*tensors, mask).eq(0).all()
    assert counter.frame_count == 2


@pytest.mark.parametrize('backend', ['sdpa', 'plain'])
def test_compiled_for_the_cpu(backend):
    compiled = torch.compile(attention, fullgraph=True)
    rank = torch.randint(4, (1, 20))
    with use_attention(backend):
        compare(compiled, draw(), make_mask(rank, rank, torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'flex', 'triton'])
@pytest.mark.parametrize('tokens', [60, 128, 196])
def test_compiled_for_the_gpu(backend, tokens):
    compiled = torch.compile(attention, fullgraph=True)
    rank = torch.randint(4, (2, tokens), device='cuda')
    with use_attention(backend):
        compare(compiled, draw(tokens, device='cuda'), make_mask(rank, rank, torch.float32))


@pytest.mark.parametrize('segments', [1, 3, 7])
def test_flex_skips_the_right_tiles(segments):
    """Full, partly open and closed tiles, against the mask drawn in full. Only a GPU's compiled kernel reads them."""
    rank = torch.arange(300).mul(segments).div(300, rounding_mode='floor').int()[None]
    blocks = flex.make_blocks(rank, rank)
    drawn = torch.zeros(
        384, 384, dtype=torch.bool
    )  # padded: such keys are seen by nobody, such queries see what is there
    drawn[:, :300] = torch.cat([rank[0], torch.full((84,), NEVER)])[:, None] >= rank
    tiles = drawn.unflatten(0, (3, 128)).unflatten(2, (3, 128)).transpose(1, 2).flatten(2).float().mean(2)
    lists = {
        'partly': (blocks.kv_num_blocks, blocks.kv_indices, (tiles > 0) & (tiles < 1)),
        'full': (blocks.full_kv_num_blocks, blocks.full_kv_indices, tiles == 1),
    }
    for name, (numbers, places, expected) in lists.items():
        for row in range(3):
            found = set(places[0, 0, row, : numbers[0, 0, row]].tolist())
            assert found == set(expected[row].nonzero().flatten().tolist()), (name, row)


def test_operators_keep_their_promises():
    """Schema, fake tensors and autograd, as PyTorch checks them."""
    rank = torch.randint(3, (2, 5), dtype=torch.int32)
    torch.library.opcheck(triton_ranks._rank_attention, (*draw(5), rank - 1, rank))


def test_kernels_compile_for_gpus():
    """No GPU is needed to find out whether Triton can translate the kernels; its interpreter accepts more."""
    if not triton_ranks.INSTALLED:
        pytest.skip('Triton is not installed')
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from randsac_mm.kernels import triton_kernels
from randsac_mm.kernels.triton_ranks import _tiles

for kernel, keys in (('make_out', 60), ('make_grad_k_v', 60), ('make_grad_q', 200)):
    function = getattr(triton_kernels, kernel)
    constants = dict(_tiles(60, keys, 64, 2)[kernel == 'make_grad_k_v'], MASKED=True, PRECISION='tf32x3', ALL_KEYS=True)
    options = {name: constants.pop(name) for name in ('num_warps', 'num_stages')}
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    signature = {name: 'i32' for name in function.arg_names} | dict.fromkeys(constants, 'constexpr')
    for name in ('q', 'k', 'v', 'out', 'grad', 'grad_q', 'grad_k', 'grad_v'):
        signature[name] = '*bf16'
    signature |= {'lse': '*fp32', 'scale': 'fp32', 'natural_scale': 'fp32', 'query_rank': '*i32', 'key_rank': '*i32'}
    signature = {name: signature[name] for name in function.arg_names}
    places = {(function.arg_names.index(name),): value for name, value in constants.items()}
    made = triton.compile(ASTSource(function, signature, places), target=GPUTarget('cuda', 80, 32), options=options)
    print(kernel, len(made.asm['cubin']) > 0, made.metadata.shared <= 99 * 1024)
"""
    environment = os.environ | {'TRITON_INTERPRET': '0'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('True True') == 3, done.stdout
