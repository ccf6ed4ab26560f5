"""Contract: torch.compile takes every back-end whole, once for all masks of a shape, and gives the same numbers."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from randsac_mm.kernels import attention, choose_backend, triton_ranks
from randsac_mm.segments import Mask

# A CUDA build of torch warns on a machine without a GPU when it compiles for the first time.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings('ignore::DeprecationWarning:torch')]
BACKENDS = ('sdpa', 'plain', 'triton')


def draw(tokens=20, device='cpu'):
    """Draw queries, keys and values (2, 3, N, 16), views of one projection, and ranks (2, N)."""
    x = torch.randn(2, tokens, 3 * 3 * 16, device=device)
    tensors = x.unflatten(2, (3, 3, 16)).permute(2, 0, 3, 1, 4).unbind(0)
    return [part.requires_grad_() for part in tensors], torch.randint(4, (2, tokens), device=device).int()


def compare(compiled, backend, *args):
    """Compare outputs and gradients of compiled and eager attention."""
    tensors, rank = draw(*args)
    mask = Mask(rank - 1, rank).prepare(backend, torch.float32)
    outs = compiled(*tensors, mask), attention(*tensors, mask)
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(outs[0])
    torch.testing.assert_close(*(torch.autograd.grad(out, tensors, weight) for out in outs), rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize('backend', BACKENDS)
def test_one_graph_serves_all_masks(backend):
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(attention, backend=counter, fullgraph=True)
    for _ in range(3):
        compare(compiled, backend)
    assert counter.frame_count == 1


ON_GPU = [pytest.param(*case, marks=pytest.mark.gpu) for case in product(BACKENDS, (60, 128, 196), ('cuda',))]


@pytest.mark.parametrize(('backend', 'tokens', 'device'), [('sdpa', 20, 'cpu'), ('plain', 20, 'cpu'), *ON_GPU])
def test_compiled(backend, tokens, device):
    compare(torch.compile(attention, fullgraph=True), backend, tokens, device)


def test_auto_is_plain_in_compiled_bfloat16_on_a_cpu():
    def chosen(x):
        return x + (choose_backend('auto', x.device, x.dtype) == 'plain')

    x = torch.zeros(1, dtype=torch.bfloat16)
    compiled = torch.compile(chosen, backend='eager', fullgraph=True)
    assert (compiled(x), compiled(x.float()), chosen(x)) == (1, 0, 0)
    assert choose_backend('auto', x.device, x.dtype, compiled=True) == 'plain'


def test_operators_have_correct_schemas_and_gradients():
    """As PyTorch checks them: schema, fake tensors and autograd."""
    tensors, rank = draw(5)
    torch.library.opcheck(triton_ranks._rank_attention, (*tensors, rank - 1, rank))


def test_kernels_compile_for_gpus():
    """No GPU is needed to see that Triton can translate the kernels; its interpreter accepts more."""
    pytest.importorskip('triton')
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
