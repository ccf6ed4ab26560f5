#!/usr/bin/env python
"""Time whole pre-training steps against the same model written with PyTorch's transformer layers and additive masks.

All variants run in one process, in turns, on the same images and serializations, and compute the same loss. A step is:
normalise, draw the serialization, forward, loss, backward, AdamW, zero gradients.

Example:
    python tools/benchmarks/pretrain_step.py                      ViT-B, 192 px, 9 squares
    python tools/benchmarks/pretrain_step.py --arch t --batch 64 --dtype bf16 --json step.json
"""

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from plain_model import PlainRandSAC
from torch import Tensor, nn

from randsac_mm.models import RandSAC

ARCHS = {  # name in the zoo, dims, decoder layers, heads of the decoder, as in configs/randsac
    't': ('deit-tiny', 192, 3, 3),
    's': ('deit-small', 384, 4, 12),
    'b': ('base', 768, 6, 12),
}
PHASES = ('forward', 'backward', 'update')


def build_model(arch: str, img_size: int, patch_size: int, segments: int) -> RandSAC:
    """Build one of the paper's models with skip connections and square segments."""
    zoo, dims, layers, heads = ARCHS[arch]
    init_default_scope('mmpretrain')
    partition = dict(type='SquarePartition', hierarchy=segments)
    neck = dict(type='RandSACDecoder', num_layers=layers, embed_dims=dims, num_heads=heads)
    return MODELS.build(
        dict(
            type='RandSAC',
            backbone=dict(type='RandSACViT', arch=zoo, img_size=img_size, patch_size=patch_size),
            neck=dict(**neck, encoder_dims=dims, encoder_layers=12),
            head=dict(type='RandSACHead', embed_dims=dims, patch_size=patch_size),
            data_preprocessor=dict(
                type='RandSACDataPreprocessor',
                mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375],
                serialization=dict(type='RandomSerialization', partition=partition),
            ),
        )
    )


class Variant:
    """Hold one way to do a step, with an optimiser of its own.

    Args:
        model: The module that is trained.
        loss: Maps a prepared batch to the loss.
        optimizer: Optimiser of the model's parameters.
    """

    def __init__(self, model: nn.Module, loss: Callable[[dict], Tensor], optimizer: torch.optim.Optimizer) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.times: dict[str, list[float]] = {phase: [] for phase in (*PHASES, 'step')}

    def step(self, prepare: Callable[[], dict], precision: contextlib.AbstractContextManager, record: bool) -> float:
        """Do one step, note how long its phases took if ``record``, and return the loss."""
        clock = [_now()]
        batch = prepare()
        with precision:
            loss = self.loss(batch)
        clock.append(_now())
        loss.backward()
        clock.append(_now())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        clock.append(_now())
        if record:
            for phase, begin, end in zip(PHASES, clock[:-1], clock[1:], strict=True):
                self.times[phase].append(end - begin)
            self.times['step'].append(clock[-1] - clock[0])
        return loss.item()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_variants(model: RandSAC, tokens_per_segment: int, fused_baseline: bool) -> dict[str, Variant]:
    """Make the variants: the baseline's share one set of weights, started from ours."""
    plain = PlainRandSAC(model).to(next(model.parameters()).device)
    settings = dict(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05)
    plain_optimizer = torch.optim.AdamW(plain.parameters(), **settings, fused=fused_baseline)
    ours = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **settings, fused=True)
    return {
        'plain layers, all tokens': Variant(plain, lambda b: plain(b['inputs'], b['rank']), plain_optimizer),
        'plain layers, sorted': Variant(
            plain, lambda b: plain(b['inputs'], b['rank'], tokens_per_segment), plain_optimizer
        ),
        'randsac_mm': Variant(model, lambda b: model.loss(**b)['loss'], ours),
    }


def benchmark(
    variants: dict[str, Variant], prepare: Callable[[int], dict], rounds: int, precision: Callable[[], object]
) -> None:
    """Run all variants in turns, each round beginning with another one; the first round is not recorded."""
    names = list(variants)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            variants[name].step(lambda i=i: prepare(i), precision(), record=i > 0)


def check_same_loss(variants: dict[str, Variant], prepare: Callable[[int], dict]) -> None:
    """Verify, in float32, that all variants compute the same loss before anything is trained."""
    with torch.no_grad():
        losses = {name: variant.loss(prepare(0)).item() for name, variant in variants.items()}
    print('loss before training: ' + ', '.join(f'{name} {loss:.6f}' for name, loss in losses.items()))
    if max(losses.values()) - min(losses.values()) > 1e-4:
        raise RuntimeError(f'the variants do not compute the same function: {losses}')


def summarise(variants: dict[str, Variant]) -> dict[str, dict]:
    """Give median, quartiles and the medians of all phases, in seconds; and how much longer a step is than ours."""
    ours = variants['randsac_mm'].times['step']
    summary = {}
    for name, variant in variants.items():
        steps = variant.times['step']
        quartiles = statistics.quantiles(steps, n=4) if len(steps) > 1 else [steps[0]] * 3
        summary[name] = {
            'step': statistics.median(steps),
            'quartiles': [quartiles[0], quartiles[2]],
            **{phase: statistics.median(variant.times[phase]) for phase in PHASES},
            # Pairs of the same round saw the same noise of the machine.
            'ratio': statistics.median(a / b for a, b in zip(steps, ours, strict=True)),
        }
    return summary


def table(summary: dict[str, dict]) -> str:
    """Write a summary for people."""
    lines = [
        f'{"seconds, median":<26}{"step":>9}{"quartiles":>18}' + ''.join(f'{p:>10}' for p in PHASES) + f'{"/ ours":>9}'
    ]
    for name, row in summary.items():
        low, high = row['quartiles']
        phases = ''.join(f'{row[phase]:>10.3f}' for phase in PHASES)
        lines.append(f'{name:<26}{row["step"]:>9.3f}{f"{low:.3f} .. {high:.3f}":>18}{phases}{row["ratio"]:>9.2f}')
    return '\n'.join(lines)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', choices=sorted(ARCHS), default='b', help='ViT-T, ViT-S or ViT-B (default)')
    parser.add_argument('--img-size', type=int, default=192, help='pixels (default: 192)')
    parser.add_argument('--patch-size', type=int, default=16, help='pixels (default: 16)')
    parser.add_argument('--segments', type=int, default=9, help='squares per image (default: 9)')
    parser.add_argument('--batch', type=int, default=4, help='images a step (default: 4)')
    parser.add_argument('--rounds', type=int, default=7, help='recorded steps of each variant (default: 7)')
    parser.add_argument('--dtype', choices=['fp32', 'bf16'], default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--fused-baseline', action='store_true', help='give the baseline the fused AdamW, too')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the figures to FILE')
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    model = build_model(args.arch, args.img_size, args.patch_size, args.segments).to(device)
    images = torch.randint(256, (args.batch, 3, args.img_size, args.img_size), dtype=torch.uint8)

    def prepare(i: int) -> dict:
        torch.manual_seed(i)  # the same serializations for every variant
        return model.data_preprocessor(dict(inputs=images), training=True)

    def precision() -> contextlib.AbstractContextManager:
        return torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == 'bf16')

    tokens = model.data_preprocessor.serialization.tokens_per_segment(model.backbone.patch_resolution)
    variants = make_variants(model, tokens, args.fused_baseline)
    print(
        f'ViT-{args.arch.upper()}, {args.img_size} px, {args.segments} squares of {tokens} tokens, batch {args.batch}, '
        f'{args.dtype}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds'
    )
    check_same_loss(variants, prepare)
    benchmark(variants, prepare, args.rounds, precision)
    summary = summarise(variants)
    print(table(summary))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != 'json'}
        where = {'device': device.type, 'threads': torch.get_num_threads(), 'machine': platform.machine()}
        result = {'settings': settings, **where, 'torch': torch.__version__, 'seconds': summary}
        args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
