"""The online probe: accuracy of the encoder's features while pre-training runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.registry import DATASETS
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from randsac_mm.engine import random_state
from randsac_mm.engine.distributed import on_first_rank
from randsac_mm.registry import register

from .evaluate import Scores, evaluate_features
from .features import extract_features, normalise
from .labelled_images import load_images

_DONE = 'probe_step'  # in the message hub, and thereby in checkpoints: the last step that was probed


@register('HOOKS', everywhere=True)
class OnlineProbeHook(Hook):
    """Evaluate the encoder's features on labelled images while it is trained on images without labels.

    Before the first step, then every ``interval`` epochs or iterations, and at the end, the averaged last-layer tokens
    of both sets are computed (whole images, no mask, evaluation mode, in the precision of the run's ``optim_wrapper``)
    and classified. ``probe/knn`` and ``probe/linear``, in percent, and ``probe/seconds`` stand beside the loss in all
    that the visualizer writes, at the number of steps done so far.

    Training is not changed by a bit. The first process does the work and the others wait for it. A probe that fails
    ends the run if it is the first one, and otherwise is a warning. A resumed run continues the curve.

    Args:
        train: The labelled data set to learn from, or its config: any one of mmpretrain or of ours. Its pipeline may
            load, resize and crop, must not be random and must end at one size. Normalisation is the model's.
        test: The labelled data set of held-out images.
        interval: Epochs, or iterations, between probes.
        max_train: Most images of ``train`` to use, at least 20, chosen once such that classes keep their shares; None:
            all.
        max_test: The same for ``test``.
        by_epoch: Whether ``interval`` counts epochs; a loop that counts iterations needs False.

    Raises:
        ValueError: If ``interval`` is below 1; before training, if the data sets cannot be used or have different
            classes, the loop counts no epochs, or the model is sharded over processes.

    Example:
        >>> hook = OnlineProbeHook(dict(type='Digits', split='train'), dict(type='Digits', split='test'), interval=5)
    """

    priority = 'LOW'  # after the log line of the step, before its checkpoint

    def __init__(
        self,
        train: dict | Dataset,
        test: dict | Dataset,
        interval: int = 1,
        max_train: int | None = 5000,
        max_test: int | None = 2000,
        by_epoch: bool = True,
    ) -> None:
        if interval < 1:
            raise ValueError(f'interval={interval} must be at least 1')
        self.train, self.test, self.interval = train, test, interval
        self.max_train, self.max_test, self.by_epoch = max_train, max_test, by_epoch

    def before_train(self, runner: Runner) -> None:
        """Read the images and, in a new run, probe the untrained encoder."""
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError('OnlineProbeHook counts epochs: set by_epoch=False for IterBasedTrainLoop')
        if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
            raise ValueError(
                f'{type(runner.model).__name__} spreads the weights over processes, and OnlineProbeHook needs them '
                'whole: train with DistributedDataParallel, or evaluate checkpoints'
            )
        self._model = _unwrap(runner.model)
        self._began = time.perf_counter()
        self._probes = 0
        with undisturbed(self._model):
            on_first_rank(self._read)
        self._seconds = time.perf_counter() - self._began
        if runner.message_hub.get_info(_DONE) is None:  # no resumed run, or one that had no probe before
            self._probe(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Probe after every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._probe(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Probe after every ``interval`` epochs, and after the last one."""
        if not self.by_epoch:
            return
        if (runner.epoch + 1) % self.interval == 0 or runner.epoch + 1 == runner.max_epochs:
            self._probe(runner)

    def after_train(self, runner: Runner) -> None:
        """Probe a run that was stopped between two intervals, and log what all probes have cost."""
        self._probe(runner)
        whole = time.perf_counter() - self._began
        runner.logger.info(
            f'Online probe: {self._probes} probes and reading the images took {self._seconds:.1f} s, '
            f'{self._seconds / whole:.1%} of the {whole:.1f} s of this run'
        )

    def _read(self) -> None:
        parts = [DATASETS.build(part) if isinstance(part, dict) else part for part in (self.train, self.test)]
        for part in parts:
            getattr(part, 'full_init', list)()  # which may find the classes
        train, test = (list(getattr(part, 'metainfo', {}).get('classes') or ()) for part in parts)
        if train and test and train != test:
            names = sorted({*train} ^ {*test})[:10] or 'their order'
            raise ValueError(f'train and test of OnlineProbeHook differ in classes: {names}; use LabelledImageFolder')
        self._images = (
            load_images(parts[0], 'train of OnlineProbeHook', self.max_train),
            load_images(parts[1], 'test of OnlineProbeHook', self.max_test),
        )

    def _probe(self, runner: Runner, step: int | None = None) -> None:
        """Probe now, after ``step`` iterations, unless that has been done, and log the result."""
        step = runner.iter if step is None else step
        if runner.message_hub.get_info(_DONE) == step:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the time of earlier steps is not the probe's
        start = time.perf_counter()
        try:
            with undisturbed(self._model):
                scores = on_first_rank(partial(self._evaluate, runner.optim_wrapper))
        except Exception as error:
            if not self._probes:
                raise
            runner.logger.warning(f'Online probe at iteration {step} failed: {type(error).__name__}: {error}')
            return
        seconds = time.perf_counter() - start
        self._seconds += seconds
        self._probes += 1
        values = {'probe/knn': scores.knn, 'probe/linear': scores.linear, 'probe/seconds': seconds}
        for key, value in values.items():
            runner.message_hub.update_scalar(key, value)
        runner.message_hub.update_info(_DONE, step)
        logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        runner.visualizer.add_scalars(values, step=step, file_path=getattr(logger, 'json_log_path', None))
        runner.logger.info(
            f'Online probe at iteration {step}: knn {scores.knn:.2f} %, linear {scores.linear:.2f} % ({seconds:.1f} s)'
        )

    def _evaluate(self, optim_wrapper: OptimWrapper) -> Scores:
        backbone, preprocess = _unwrap(self._model.backbone), partial(normalise, self._model.data_preprocessor)
        with optim_wrapper.optim_context(self._model):
            features = [extract_features(backbone, part.images, preprocess=preprocess) for part in self._images]
        train, test = self._images
        return evaluate_features(features[0], train.labels, features[1], test.labels)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model's ordinary code inside the context; afterwards random states and compiled code are as before."""
    states = random_state.capture()
    # What nn.Module.compile sets. Setting it aside keeps the compiled code, and nothing is compiled for other shapes.
    compiled = [(m, m._compiled_call_impl) for m in model.modules() if getattr(m, '_compiled_call_impl', None)]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, code in compiled:
            module._compiled_call_impl = code
        random_state.restore(states)


def _unwrap(module: nn.Module) -> nn.Module:
    return module.module if is_model_wrapper(module) else module
