"""Progress of a run for people: a short line on the terminal now and then; the log file has the whole."""

import logging
import time
from typing import Any

from mmengine.hooks import Hook

from randsac_mm.engine.time_budget import format_duration

_FIRST, _MOST = 10.0, 60.0  # seconds between lines, at the beginning and later
SCORES = {
    'probe/knn': 'kNN',
    'probe/linear': 'linear',
    'val/accuracy/top1': 'accuracy',
    'val/mIoU': 'mIoU',
    'val/coco/bbox_mAP': 'box AP',
    'val/coco/segm_mAP': 'mask AP',
}


class ProgressHook(Hook):
    """Print step, epoch, loss, the last scores and the remaining time; of the log only warnings and compiling."""

    priority = 'VERY_LOW'  # after log line and probe

    def __init__(self, runner: Any) -> None:
        for handler in runner.logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_shown)

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self._began = self._printed = time.monotonic()
        self._seen: dict[str, Any] = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Print a line if it is time, or the last step."""
        now = time.monotonic()
        pause = min(_MOST, max(_FIRST, (now - self._began) / 20))
        if now - self._printed < pause and runner.iter + 1 < runner.max_iters:
            return
        self._printed = now
        done, hub = runner.iter + 1, runner.message_hub
        loader = runner.train_dataloader
        epoch = done * loader.batch_sampler.batch_size / len(loader.dataset)
        words = [f'step {done:,} of {runner.max_iters:,}', f'epoch {epoch:,.1f}']
        if 'train/loss' in hub.log_scalars:
            words.append(f'loss {hub.get_scalar("train/loss").mean(runner.log_processor.window_size):.4f}')
        scores = {name: hub.get_scalar(key).current() for key, name in SCORES.items() if key in hub.log_scalars}
        words += [
            f'{name} {score:.1f} %' if abs(score) > 1 else f'{name} {score:.3f}' for name, score in scores.items()
        ]
        print('  '.join([*words, f'{format_duration(hub.get_info("eta") or 0)} left']), flush=True)


def _is_shown(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    usual = 'deprecated' in text or 'is skipped since' in text  # of mmengine in every run
    return (record.levelno >= logging.WARNING and not usual) or 'ompiled: ' in text
