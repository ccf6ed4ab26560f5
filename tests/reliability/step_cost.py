"""Cost of watching for steps that are not finite: one run with and without it in alternate steps, on a CPU.

python tests/reliability/step_cost.py [CONFIG] [IMAGES] [PAIRS]      (ViT-B with K = 9, 4, 20)
"""

import statistics
import sys
import tempfile
import time

import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS

from randsac_mm.engine import launch


@DATASETS.register_module()
class RandomImages(torch.utils.data.Dataset):
    metainfo = {}  # noqa: RUF012

    def __init__(self, shape):
        self.image = torch.randint(256, tuple(shape), dtype=torch.uint8)

    def __len__(self):
        return 10**5

    def __getitem__(self, index):
        return {'inputs': self.image}


class Alternate(Hook):
    """Puts the optimiser wrapper's own methods, or those that watch, into its place, and takes the time."""

    priority = 'HIGHEST'

    def __init__(self, pairs):
        self.pairs, self.start, self.methods, self.seconds = pairs, None, [], [[], []]

    def before_train(self, runner):
        wrapper = runner.optim_wrapper
        self.methods.append((wrapper.update_params, wrapper.step))

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        wrapper, number = runner.optim_wrapper, runner.iter
        if number == 0:
            self.methods.append((wrapper.update_params, wrapper.step))
        if number > 2:  # after two steps of warm-up
            self.seconds[(number - 1) % 2].append(time.perf_counter() - self.start)
        if len(self.seconds[1]) == self.pairs:
            raise StopIteration
        wrapper.update_params, wrapper.step = self.methods[number % 2]
        wrapper.optimizer.found_inf = None
        self.start = time.perf_counter()


def main(config='configs/randsac/vit-b_k9_in1k.py', images='4', pairs='20'):
    with tempfile.TemporaryDirectory() as folder:
        cfg = launch.load_config(config, {'default_hooks.logger.interval': 10**6}, folder, 'none')
        cfg.optim_wrapper.type = 'OptimWrapper'
        shape = cfg.model.backbone.get('in_channels', 3), *2 * (cfg.model.backbone.img_size,)
        cfg.train_dataloader.update(batch_size=int(images), num_workers=0, persistent_workers=False)
        cfg.train_dataloader.collate_fn = dict(type='default_collate')
        cfg.train_dataloader.dataset = dict(type='mmengine.RandomImages', shape=shape)
        cfg.custom_hooks, cfg.default_hooks.compile = [], dict(type='CompileHook', enabled=False)
        runner, alternate = launch.build_runner(cfg), Alternate(int(pairs))
        runner.register_hook(alternate)
        try:
            runner.train()
        except StopIteration:
            without, watched = alternate.seconds
    ratios = [b / a for a, b in zip(without, watched, strict=False)]
    print(
        f'{config}, {images} images, {torch.get_num_threads()} threads: without {statistics.median(without):.3f} s, '
        f'watched {statistics.median(watched):.3f} s, median of {len(ratios)} ratios {statistics.median(ratios):.4f}'
    )


if __name__ == '__main__':
    main(*sys.argv[1:])
