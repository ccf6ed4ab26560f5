"""The ways to do a training step that step.py times, each with weights and an optimiser of its own."""

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from measure import Marks, now
from plain_model import PlainRandSAC
from rates import backends
from step_models import build_mae, mae_products
from torch import Tensor, nn

from randsac_mm.complexity import complexity
from randsac_mm.engine.compile import compile_model
from randsac_mm.kernels import attention_backend, attention_backends, use_attention, use_linear
from randsac_mm.models import RandSAC

PHASES = ('draw', 'forward', 'backward', 'update')
BASELINES = {
    'plain': "PyTorch's layers, all tokens, additive masks per image",
    'plain-compiled': 'the same, torch.compile',
    'plain-sorted': "PyTorch's layers, our sorted layout, one additive mask",
    'plain-sorted-compiled': 'the same, torch.compile',
    'mae': "mmpretrain's MAE",
    'mae-compiled': 'the same, torch.compile',
}
OURS = {
    'eager': 'randsac_mm, eager',
    'compiled': 'randsac_mm, compiled',
    'graphs': 'randsac_mm, compiled, CUDA graphs',
}
COMPILED = ('plain-compiled', 'plain-sorted-compiled', 'mae-compiled', 'compiled', 'graphs')
_ADAMW = dict(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05)


class Choice(NamedTuple):
    """Take the name of a variant apart: ``BASE[:ATTENTION][+LINEAR]``.

    Attributes:
        base: Key of ``BASELINES`` or ``OURS``.
        attention: Attention back-end of ours; None: the one that the package uses unless told otherwise.
        linear: Matrix product of ours; None: PyTorch's.
    """

    base: str
    attention: str | None
    linear: str | None


def parse(name: str) -> Choice:
    """Read the name of a variant.

    Raises:
        ValueError: If there is no such variant or back-end.

    Example:
        >>> parse('compiled:sdpa+onednn')
        Choice(base='compiled', attention='sdpa', linear='onednn')
    """
    match = re.fullmatch(r'([a-z-]+)(?::(\w+))?(?:\+(\w+))?', name)
    known = [*BASELINES, *OURS]
    if match is None or match[1] not in known:
        raise ValueError(f'variant {name!r}: use one of {known}, ours as BASE[:ATTENTION][+LINEAR]')
    choice = Choice(*match.groups())
    if choice.base in BASELINES and (choice.attention or choice.linear):
        raise ValueError(f'variant {name!r}: only {list(OURS)} take back-ends')
    return choice


def default_variants(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Name the variants that are worth their time on a device."""
    cuda = device.type == 'cuda'
    linear = [f'+{name}' for name in backends(device, dtype)[1:]]
    names = ['plain', 'plain-sorted', 'mae', 'mae-compiled', 'eager', 'compiled']
    if cuda:
        names[2:2] = ['plain-compiled', 'plain-sorted-compiled']
    names += [base + suffix for suffix in linear for base in ('eager', 'compiled')]
    # FlexAttention has no backward on a CPU.
    unfit = {attention_backend(), *(() if cuda else ('flex',))}
    others = [name for name, missing in attention_backends(device).items() if not missing and name not in unfit]
    names += [f'{base}:{name}' for name in others for base in (('eager', 'compiled') if cuda else ('eager',))]
    return [*names, 'graphs'] if cuda else names


@dataclass
class Variant:
    """Hold one way to do a step.

    Attributes:
        name: See :func:`parse`.
        model: The module that is trained.
        loss: Maps images and a drawn serialization to the loss.
        draw: Draws the serialization of images.
        optimizer: Optimiser of the model's parameters.
        images: Normalised images on the device.
        multiply_adds: Multiply-adds of a forward pass for one image, by closed form: as executed.
        useful: Those that the result needs: of RandSAC as executed by ours.
        attention: Attention back-end of ours, or None.
        linear: Matrix product of ours, or None.
        seconds: Of every recorded step, in all and by phase.
        first: Seconds of the loss and the two steps that came first, compiling included.
    """

    name: str
    model: nn.Module
    loss: Callable[[Tensor, dict], Tensor]
    draw: Callable[[Tensor], dict]
    optimizer: torch.optim.Optimizer
    images: Tensor
    multiply_adds: int
    useful: int
    attention: str | None = None
    linear: str | None = None
    seconds: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in (*PHASES, 'step')})
    first: float = 0.0

    def step(self, dtype: torch.dtype, record: bool = False, steps: int = 1) -> None:
        """Train.

        Args:
            dtype: Type of the matrix products; below float32 by autocast.
            record: Whether to note the time of a step and its phases.
            steps: Steps between the first and the last look at the clock: a GPU is never waited for inside.
        """
        device = self.images.device
        marks = []
        with kernels(self.attention, self.linear):
            start = now(device)
            for _ in range(steps):
                torch.compiler.cudagraph_mark_step_begin()  # as CompileHook does; nothing without graphs
                mark = Marks(device)
                mark.set()
                batch = self.draw(self.images)
                mark.set()
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = self.loss(self.images, batch)
                mark.set()
                loss.backward()
                mark.set()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                mark.set()
                marks.append(mark)
            seconds = (now(device) - start) / steps
        if record:
            self.seconds['step'].append(seconds)
            columns = zip(*(mark.seconds() for mark in marks), strict=True)
            for phase, column in zip(PHASES, columns, strict=True):
                self.seconds[phase].append(sum(column) / steps)

    def check(self, dtype: torch.dtype) -> float:
        """Compute the loss of a serialization that depends on torch's seed alone; nothing is trained."""
        device = self.images.device
        with kernels(self.attention, self.linear):
            batch = self.draw(self.images)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                return self.loss(self.images, batch).item()

    def state_bytes(self) -> int:
        """Count the bytes that stay from step to step: parameters, buffers, the optimiser's averages."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        for state in self.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextlib.contextmanager
def kernels(attention: str | None, linear: str | None) -> Iterator[None]:
    """Use other back-ends for a while; None: the attention that is in force, PyTorch's matrix product."""
    with use_attention(attention or attention_backend()), use_linear(linear or 'torch'):
        yield


def make_variant(name: str, ours: RandSAC, model_name: str, batch: int, fused_baseline: bool) -> Variant:
    """Make a variant that starts from the weights of a model (MAE: from weights of its own).

    Args:
        name: See :func:`parse`.
        ours: The model; it is copied.
        model_name: Its name, for the MAE beside it.
        batch: Images in a step.
        fused_baseline: Whether baselines get the fused AdamW, too; otherwise PyTorch's default for the device.
    """
    choice, device = parse(name), next(ours.parameters()).device
    cost, draw = complexity(ours)['total'], ours.data_preprocessor.draw
    size = ours.backbone.img_size
    useful = executed = cost.executed
    fused = choice.base in OURS or fused_baseline
    if choice.base in OURS:
        model, attention, linear = copy.deepcopy(ours), choice.attention, choice.linear or 'torch'
        attention = attention or attention_backend()
        if choice.base != 'eager':
            compile_model(model, mode='reduce-overhead' if choice.base == 'graphs' else None)
    else:
        attention = linear = None
    if choice.base.startswith('plain'):
        plain = model = PlainRandSAC(ours).to(device)
        tokens = ours.data_preprocessor.serialization.tokens_per_segment(ours.backbone.patch_resolution)
        if 'sorted' not in choice.base:
            tokens, executed = None, cost.all_tokens
        elif tokens is None:
            raise ValueError(f'{name}: plain layers sort only segments of equal size')
        plain_forward = torch.compile(plain) if choice.base.endswith('compiled') else plain
    elif choice.base.startswith('mae'):
        model = build_mae(model_name).to(device)
        draw, size = _draw_nothing, model.backbone.img_size
        executed = useful = mae_products(model)
        mae_loss = torch.compile(model.loss) if choice.base.endswith('compiled') else model.loss

    def loss(images: Tensor, drawn: dict) -> Tensor:
        if choice.base.startswith('plain'):
            return plain_forward(images, drawn['rank'], tokens)
        if choice.base.startswith('mae'):
            return mae_loss(images, None)['loss']
        return model.loss(images, **drawn)['loss']

    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, **_ADAMW, **(dict(fused=True) if fused else {}))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *size, generator=generator).to(device)
    return Variant(name, model, loss, draw, optimizer, images, executed, useful, attention, linear)


def other_losses(losses: dict[str, float], dtype: torch.dtype) -> dict[str, float]:
    """Find variants that do not compute the same function as the first: another loss from the same weights.

    Args:
        losses: Loss by name of variant; MAE's, a task of its own, are passed over.
        dtype: In which the matrix products were done; below float32 it rounds.

    Returns:
        The losses that differ.

    Example:
        >>> other_losses({'plain': 1.0, 'mae': 0.8, 'eager': 1.000001, 'compiled': 1.1}, torch.float32)
        {'compiled': 1.1}
    """
    ours = {name: loss for name, loss in losses.items() if not name.startswith('mae')}
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    first = next(iter(ours.values()), 0.0)
    return {name: loss for name, loss in ours.items() if not abs(loss - first) <= tolerance * first}  # nor NaN


def _draw_nothing(images: Tensor) -> dict:
    return {}
