"""Contract: torch.compile takes every back-end whole, once for all masks of a shape, and gives the same numbers."""

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from randsac_mm.kernels import attention, choose_backend, triton_ranks
from randsac_mm.segments import Mask

pytestmark = [
    pytest.mark.slow,
    # A CUDA build of torch on a machine without a GPU says so when it compiles for the first time.
    pytest.mark.filterwarnings('ignore::DeprecationWarning:torch'),
]


def draw(tokens=20, device='cpu'):
    x = torch.randn(2, tokens, 3 * 3 * 16, device=device)
    return [part.requires_grad_() for part in x.unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4).unbind(0)]


def compare(compiled, tensors, mask):
    """Compare outputs and gradients of compiled and eager attention."""
    ours, eager = compiled(*tensors, mask), attention(*tensors, mask)
    torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(eager)
    pair = [torch.autograd.grad(out, tensors, weight) for out in (ours, eager)]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_mask(query_rank, key_rank, backend):
    return Mask(query_rank.int(), key_rank.int()).prepare(backend, torch.float32)


@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'triton'])
def test_one_graph_serves_all_masks(backend):
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    for _ in range(3):
        rank = torch.randint(4, (2, 20))
        compare(compiled, draw(), make_mask(rank - 1, rank, backend))
    assert counter.frame_count == 1


@pytest.mark.parametrize('backend', ['sdpa', 'plain'])
def test_compiled_for_the_cpu(backend):
    compiled = torch.compile(attention, fullgraph=True)
    rank = torch.randint(4, (1, 20))
    compare(compiled, draw(), make_mask(rank, rank, backend))


@pytest.mark.gpu
@pytest.mark.parametrize('backend', ['sdpa', 'plain', 'triton'])
@pytest.mark.parametrize('tokens', [60, 128, 196])
def test_compiled_for_the_gpu(backend, tokens):
    compiled = torch.compile(attention, fullgraph=True)
    rank = torch.randint(4, (2, tokens), device='cuda')
    compare(compiled, draw(tokens, device='cuda'), make_mask(rank, rank, backend))


def test_auto_is_plain_in_compiled_bfloat16_on_a_cpu():
    def chosen(x):
        return x + (choose_backend('auto', x.device, x.dtype) == 'plain')

    compiled = torch.compile(chosen, backend='eager', fullgraph=True)
    assert compiled(torch.zeros(1, dtype=torch.bfloat16)) == 1
    assert compiled(torch.zeros(1)) == 0
    assert chosen(torch.zeros(1, dtype=torch.bfloat16)) == 0


def test_operators_have_correct_schemas_and_gradients():
    """As PyTorch checks them: schema, fake tensors and autograd."""
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
    constants = dict(_tiles(60, keys, 64, 2)[kernel == 'make_grad_k_v'], PRECISION='tf32x3', ALL_KEYS=True)
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
