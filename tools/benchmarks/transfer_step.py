#!/usr/bin/env python
"""Measure one training step of UPerNet and Mask R-CNN with a ViT-B in float32: sizes, peak memory, time.

UPerNet sees 2 images of 512 px, beside mmseg's own config for MAE; Mask R-CNN one of 1024 px, with and without gradient
checkpointing. Each model runs in a process of its own, so that the peak is its own; images and labels are random.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import measure

import mmseg
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from randsac_mm.complexity import multiply_adds

NAMES = ['upernet', 'upernet-mmseg', 'mask-rcnn', 'mask-rcnn-checkpointing']


def model_config(name: str) -> ConfigDict:
    """Return the config of a model without its initial weights."""
    path = measure.CONFIGS / 'detection' / 'mask-rcnn_vit-b_fpn_lsj-100e_coco.py'
    if name == 'upernet':
        path = measure.CONFIGS / 'segmentation' / 'upernet_vit-b_ade20k-512.py'
    elif name == 'upernet-mmseg':
        path = Path(mmseg.__file__).parent / '.mim/configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
    cfg = Config.fromfile(path).model
    cfg.pop('pretrained', None)
    cfg.backbone.pop('init_cfg', None)
    if name.endswith('checkpointing'):
        cfg.backbone.with_cp = True
    return cfg


def make_samples(segmentation: bool, size: int) -> list:
    """Make random labels: classes of the pixels of two images, or ten instances with boxes and masks in one."""
    meta = dict(img_shape=(size, size), batch_input_shape=(size, size), pad_shape=(size, size))
    if segmentation:
        labels = torch.randint(150, (2, 1, size, size))
        return [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)) for label in labels]
    samples = demo_mm_inputs(1, [(3, size, size)], num_items=[10], num_classes=80, with_mask=True)['data_samples']
    samples[0].set_metainfo(meta)
    return samples


def measure_step(name: str, cfg: ConfigDict, size: int, device: torch.device) -> dict:
    """Train a model for two steps on images of ``size`` pixels; return figures of the second one.

    Memory is the peak of the process, which should be a new one; multiply-adds: backbone and neck, for one image.
    """
    segmentation = name.startswith('upernet')
    init_default_scope('mmseg' if segmentation else 'mmdet')
    MMLogger.get_current_instance().setLevel('ERROR')  # init_weights would name every tensor
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg))
    model.init_weights()
    model.to(device).train()
    samples = [sample.to(device) for sample in make_samples(segmentation, size)]
    images = torch.randn(len(samples), 3, size, size, device=device)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
        optimizer.step()

    step()
    return {
        'parameters': sum(p.numel() for p in learned),
        'seconds': measure.seconds_of(step, device),
        'bytes_peak': peak_memory(device),
        'multiply_adds': multiply_adds(lambda: model.eval().extract_feat(images[:1])),
    }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors took on a CUDA device, or this process elsewhere (Linux)."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage, whose peak may be that of the parent process.
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(status['VmHWM'].split()[0]) * 1024


def describe(results: dict[str, dict]) -> str:
    """Return the results as a Markdown table."""
    table = [['training step', 'parameters, M', 'backbone and neck, G multiply-adds', 'peak, GB', 's']]
    for name, row in results.items():
        sizes = (row['parameters'] / 1e6, row['multiply_adds'] / 1e9, row['bytes_peak'] / 1e9, row['seconds'])
        table.append([name, *(f'{size:.2f}' for size in sizes)])
    return measure.markdown(table)


def main(argv: list[str] | None = None) -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument('--only', nargs='+', choices=NAMES, default=NAMES, help='default: all')
    args = parser.parse_args(argv)
    results: dict[str, dict] = {}
    for name in args.only:
        size = 512 if name.startswith('upernet') else 1024
        with ProcessPoolExecutor(1, get_context('spawn')) as pool:
            results[name] = pool.submit(measure_step, name, model_config(name), size, args.device).result()
        measure.write_report({'models': results}, describe(results), args.out)
    print(describe(results))


if __name__ == '__main__':
    main()
