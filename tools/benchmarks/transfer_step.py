#!/usr/bin/env python
"""Measure one training step of UPerNet and Mask R-CNN with a ViT-B, ours beside published ones.

Prints parameters, multiply-adds of a forward pass for one image, peak memory of a step (forward, backward, AdamW) and
its time. Each model runs in a process of its own, so that the peak is its own; images are random, instances are ten.

* UPerNet, 512 px, batch 2: configs/segmentation/upernet_vit-b_ade20k-512.py beside mmseg's own config for MAE.
* Mask R-CNN, 1024 px, batch 1: configs/detection/mask-rcnn_vit-b_fpn_lsj-100e_coco.py, plain, with gradient
  checkpointing and with windows, beside ViTDet's. mmdet ships no ViTDet: it is put together from mmpretrain's ViTSAM,
  which is ViTDet's encoder, and the paper's description of pyramid and heads (transfer_models.py).

SyncBN is replaced by BatchNorm. On a CPU the largest needs 11 GB; choose models by --only where there is less.

Example:
    python tools/benchmarks/transfer_step.py --out docs/results/transfer_step.json
    python tools/benchmarks/transfer_step.py --device cuda --dtype bf16 --steps 3
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from transfer_models import ENTRIES, attention_bytes, model_config, multiply_adds

from randsac_mm.engine.optim import AutocastOptimWrapper

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
INSTANCES = 10
STATUS = Path('/proc/self/status')


def segmentation_samples(batch: int, size: int, classes: int) -> list:
    """Make maps of random rectangles, on the CPU."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    rng, samples = np.random.default_rng(0), []
    for _ in range(batch):
        labels = np.zeros((1, size, size), dtype=np.int64)
        for left, top, right, bottom in random_boxes(rng, size):
            labels[0, int(top) : int(bottom), int(left) : int(right)] = rng.integers(classes)
        shape = (size, size)
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        samples.append(sample)
    return samples


def detection_samples(batch: int, size: int, classes: int) -> list:
    """Make ten ellipses of random size per image, with boxes and masks, on the CPU."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rng, samples = np.random.default_rng(0), []
    y, x = np.mgrid[:size, :size]
    for _ in range(batch):
        boxes = random_boxes(rng, size)
        masks = [((2 * x - a - c) / (c - a)) ** 2 + ((2 * y - b - d) / (d - b)) ** 2 <= 1 for a, b, c, d in boxes]
        shape = (size, size)
        sample = DetDataSample(
            metainfo=dict(
                img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1, 1)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(rng.integers(classes, size=len(boxes))),
            masks=BitmapMasks(np.array(masks, dtype=np.uint8), *shape),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    return samples


def random_boxes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw ten boxes (10, 4), left, top, right, bottom, with sides from a 32nd to a third of the image."""
    sides = size * np.exp(rng.uniform(np.log(1 / 32), np.log(1 / 3), (INSTANCES, 2)))
    corners = rng.uniform(0, size - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def memory(device: torch.device) -> tuple[int, int]:
    """Give the bytes in use now and at the highest: of the process, or of the CUDA device's tensors."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    # Not getrusage, whose peak may be that of the process which started this one.
    status = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
    now, peak = (int(status[key].split()[0]) * 1024 for key in ('VmRSS', 'VmHWM'))
    return now, peak


def build(name: str, tiny: bool) -> tuple[nn.Module, int]:
    """Build a model with random weights, and give the side of its images in pixels."""
    init_default_scope(ENTRIES[name].scope)
    cfg, size = model_config(name, tiny)
    MMLogger.get_current_instance().setLevel('ERROR')  # init_weights would name every tensor
    model = revert_sync_batchnorm(MODELS.build(cfg))
    model.init_weights()
    return model, size


def make_optimizer(learned: list[nn.Parameter], dtype: str, scope: str) -> OptimWrapper:
    """Make AdamW, in float32 or with autocast of those parts of a model that know bfloat16."""
    optimizer = torch.optim.AdamW(learned, lr=1e-5, weight_decay=0.05)
    if dtype == 'fp32':
        return OptimWrapper(optimizer)
    # mmcv's RoIAlign and non-maximum suppression do not.
    parts = ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'] if scope == 'mmdet' else None
    return AutocastOptimWrapper(optimizer=optimizer, modules=parts)


def measure(name: str, device: torch.device, dtype: str, steps: int, tiny: bool) -> dict:
    """Train a model for some steps and describe it; meant for a fresh process.

    Args:
        name: Key of ``ENTRIES``.
        device: Where.
        dtype: ``'fp32'``, or ``'bf16'`` for autocast.
        steps: Number of steps; the time is the last one's, the peak of all.
        tiny: Whether to shrink the model.

    Returns:
        Figures by name; memory in bytes.
    """
    torch.manual_seed(0)
    model, size = build(name, tiny)
    model.to(device).train()
    entry = ENTRIES[name]
    segmentation = entry.scope == 'mmseg'
    head = model.decode_head if segmentation else model.roi_head.bbox_head
    make = segmentation_samples if segmentation else detection_samples
    samples = [sample.to(device) for sample in make(entry.batch, size, head.num_classes)]
    images = torch.randn(entry.batch, 3, size, size).to(device)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(learned, dtype, entry.scope)
    before, _ = memory(device)
    for _ in range(steps):
        start = _now(device)
        with optimizer.optim_context(model):
            loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.update_params(loss)
        seconds = _now(device) - start
    _, peak = memory(device)
    if not torch.isfinite(loss):
        raise RuntimeError(f'{name}: the loss is {loss.item()}')
    return {
        'model': entry.what,
        'pixels': size,
        'batch': entry.batch,
        'parameters': sum(p.numel() for p in learned),
        'backbone_parameters': sum(p.numel() for p in model.backbone.parameters() if p.requires_grad),
        'attention_bytes': attention_bytes(model.backbone, size, entry.batch, DTYPES[dtype].itemsize),
        'bytes_before': before,
        'bytes_peak': peak,
        'seconds': seconds,
        'loss': loss.item(),
        'multiply_adds': multiply_adds(model, size),
    }


def _now(device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def run_apart(name: str, args: argparse.Namespace) -> dict:
    """Measure a model in a process of its own; one that dies, for lack of memory perhaps, is an entry as well."""
    options = ['--device', args.device, '--dtype', args.dtype, '--steps', str(args.steps)]
    command = [sys.executable, __file__, '--worker', name, *options, *(['--tiny'] if args.tiny else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = done.stderr.strip().splitlines()
    reason = 'killed, probably for lack of memory' if done.returncode == -9 else lines[-1] if lines else 'no message'
    return {'model': ENTRIES[name].what, 'failed': reason}


def table(results: dict[str, dict]) -> str:
    """Write results for people."""
    head = ('parameters', 'multiply-adds of one image', 'peak', 'before', 'step adds', 'attention', 'time')
    units = ('M', 'G: backbone + neck + heads', 'GB', 'GB', 'GB', 'GB', 's')
    lines = [_row('', *head), _row('', *units)]
    for result in results.values():
        if 'failed' in result:
            lines.append(f'{result["model"]:<46}failed: {result["failed"]}')
            continue
        parts = result['multiply_adds']
        sums = ' + '.join(f'{parts[part] / 1e9:.1f}' for part in ('backbone', 'neck', 'heads'))
        peak, before = result['bytes_peak'] / 1e9, result['bytes_before'] / 1e9
        attention, seconds = f'{result["attention_bytes"] / 1e9:.2f}', f'{result["seconds"]:.1f}'
        lines.append(
            _row(
                result['model'],
                f'{result["parameters"] / 1e6:.1f}',
                f'{parts["total"] / 1e9:.1f} = {sums}',
                f'{peak:.2f}',
                f'{before:.2f}',
                f'{peak - before:.2f}',
                attention,
                seconds,
            )
        )
    lines.append(
        'attention: one matrix of weights per layer, head and image. Fused attention (randsac_mm) never stores them; '
        'the others store several of each.'
    )
    return '\n'.join(lines)


def _row(name: str, *cells: str) -> str:
    return f'{name:<46}' + ''.join(f'{cell:>{w}}' for cell, w in zip(cells, (11, 34, 8, 8, 10, 10, 8), strict=True))


def main() -> None:
    """Read the command line, measure one model after the other, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', choices=list(ENTRIES), metavar='MODEL', help=f'some of {list(ENTRIES)}')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='default: cpu')
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--steps', type=int, default=1, help='steps of each model; the last is timed (default: 1)')
    parser.add_argument('--tiny', action='store_true', help='models of 4 narrow layers, small images: a trial')
    parser.add_argument('--out', type=Path, metavar='FILE', help='also write the figures to FILE')
    parser.add_argument('--worker', choices=list(ENTRIES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 1:
        parser.error(f'--steps {args.steps}: at least 1 step')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: this machine has no CUDA device')
    if args.device == 'cpu' and not STATUS.exists():
        parser.error(f'--device cpu: memory is read from {STATUS}, which only Linux has')
    if args.worker:
        warnings.filterwarnings('ignore')  # what the libraries say of themselves
        print(json.dumps(measure(args.worker, torch.device(args.device), args.dtype, args.steps, args.tiny)))
        return
    where = {
        'device': torch.cuda.get_device_name() if args.device == 'cuda' else platform.machine(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }
    settings = {'dtype': args.dtype, 'steps': args.steps, 'tiny': args.tiny}
    print(', '.join(f'{key} {value}' for key, value in {**where, **settings}.items()), flush=True)
    results = {}
    for name in args.only or ENTRIES:
        print(f'{name} ...', flush=True)
        results[name] = run_apart(name, args)
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps({**where, **settings, 'models': results}, indent=2) + '\n')
    if any('failed' in result for result in results.values()):
        sys.exit('transfer_step.py: error: not every model could be measured; see the table')


if __name__ == '__main__':
    main()
