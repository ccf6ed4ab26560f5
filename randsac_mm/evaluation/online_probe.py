"""The online probe: accuracy of the encoder's features while pre-training runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook, IterTimerHook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from randsac_mm.engine import random_state
from randsac_mm.registry import register

from .features import extract_features, normalise
from .knn import knn_accuracy
from .labelled_images import load_images
from .linear_probe import linear_probe_accuracy

Result = TypeVar('Result')

_DONE = 'probe_step'  # in the message hub, and thereby in checkpoints: the last step that was probed
_SHARDED = {'FullyShardedDataParallel', 'MMDeepSpeedEngineWrapper'}


@register('HOOKS', everywhere=True)
class OnlineProbeHook(Hook):
    """Evaluate the encoder's features on labelled images while it is trained on images without labels.

    ``custom_hooks = [dict(type='OnlineProbeHook', train=dict(type=...), test=dict(type=...))]``. Before the first step,
    then every ``interval`` epochs or iterations, and at the end, the averaged last-layer tokens of both sets are
    computed (whole images, no mask, evaluation mode, in the precision of the run's ``optim_wrapper``) and classified.
    The results, ``probe/knn`` and ``probe/linear`` in percent and ``probe/seconds``, stand beside the loss in
    everything that the visualizer writes, at the number of steps done so far.

    Training is not changed by a bit, and its times and the shares of ``WhereTimeGoesHook`` do not count the probe's.
    All processes together compute the features, the first one classifies them. A probe that fails ends the run if it
    is the first one, and otherwise is a warning. A resumed run continues the curve.

    Args:
        train: The labelled data set to learn from, or its config: any one of mmpretrain or of ours. Its pipeline may
            load, resize and crop, must not be random and must end at one size. Normalisation is the model's.
        test: The labelled data set of held-out images.
        interval: Epochs, or iterations, between probes.
        by_epoch: Whether ``interval`` counts epochs; False with an iteration-based loop.
        judges: ``'knn'`` (:func:`~randsac_mm.evaluation.knn_accuracy`), ``'linear'``
            (:func:`~randsac_mm.evaluation.linear_probe_accuracy`) or both.
        max_train: Most images of ``train`` to use, chosen once such that classes keep their shares; None: all.
        max_test: The same for ``test``.
        k: Neighbours of ``'knn'``.
        batch_size: Images in a step of the feature extraction.

    Raises:
        ValueError: If an argument is out of range; before training, if the data sets cannot be used, the model has no
            backbone or is sharded over processes, or ``by_epoch`` does not fit the loop.

    Example:
        >>> hook = OnlineProbeHook(dict(type='Digits', split='train'), dict(type='Digits', split='test'), interval=5)
        >>> hook.judges
        ('knn', 'linear')
    """

    priority = 'LOW'  # after the log line of the step, before its checkpoint

    def __init__(
        self,
        train: dict | Dataset,
        test: dict | Dataset,
        interval: int = 1,
        by_epoch: bool = True,
        judges: Sequence[str] = ('knn', 'linear'),
        max_train: int | None = 5000,
        max_test: int | None = 2000,
        k: int = 20,
        batch_size: int = 256,
    ) -> None:
        if isinstance(judges, str) or not judges or not set(judges) <= {'knn', 'linear'}:
            raise ValueError(f'judges={judges!r} must list one or more of knn, linear, as ("knn",)')
        counts = dict(interval=interval, max_train=max_train, max_test=max_test, k=k, batch_size=batch_size)
        for name, value in counts.items():
            if value is None and name in ('max_train', 'max_test'):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f'{name}={value!r} must be an integer of at least 1')
        self.train, self.test = train, test
        self.interval, self.by_epoch = interval, by_epoch
        self.judges = tuple(judges)
        self.max_train, self.max_test = max_train, max_test
        self.k, self.batch_size = k, batch_size

    def before_train(self, runner: Runner) -> None:
        """Read the images and, in a new run, probe the untrained encoder."""
        self._began = time.perf_counter()
        self._seconds, self._probes, self._failures = 0.0, 0, 0
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'by_epoch=True does not fit an iteration-based loop: set by_epoch=False, and interval, which is '
                f'{self.interval}, in iterations'
            )
        if _SHARDED & {kind.__name__ for kind in type(runner.model).__mro__}:
            raise ValueError(
                f'{type(runner.model).__name__} spreads the weights over processes, and OnlineProbeHook needs them '
                'whole: train with DistributedDataParallel, or evaluate checkpoints'
            )
        self._model = _unwrap(runner.model)
        if not isinstance(getattr(self._model, 'backbone', None), nn.Module):
            raise ValueError(f'{type(self._model).__name__} has no backbone, whose features OnlineProbeHook evaluates')
        with undisturbed(self._model):
            run_on_all_ranks(self._read)
        self._reading = time.perf_counter() - self._began
        runner.logger.info(
            f'Online probe: {len(self._labels[0])} labelled images to learn from and {len(self._labels[1])} held out, '
            f'read in {self._reading:.1f} s'
        )
        if runner.message_hub.get_info(_DONE) is None:  # no resumed run, or one that had no probe before
            self._probe(runner, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Probe after every ``interval`` epochs, and after the last one."""
        if self.by_epoch and ((runner.epoch + 1) % self.interval == 0 or runner.epoch + 1 == runner.max_epochs):
            self._probe(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Probe after every ``interval`` iterations, and after the last one; keep that out of the times of steps."""
        step = runner.iter + 1
        if self.by_epoch or (step % self.interval and step != runner.max_iters):
            return
        seconds = self._probe(runner, step)
        for hook in runner.hooks:
            if isinstance(hook, IterTimerHook):
                hook.t += seconds
            elif hasattr(hook, 'leave_out'):
                hook.leave_out(seconds)

    def after_train(self, runner: Runner) -> None:
        """Probe a run that was stopped between two intervals, and log what all probes have cost."""
        if runner.message_hub.get_info(_DONE) != runner.iter:
            self._probe(runner, runner.iter)
        whole = time.perf_counter() - self._began
        runner.logger.info(
            f'Online probe: {self._probes} probes took {self._seconds:.1f} s and reading the images '
            f'{self._reading:.1f} s, {(self._seconds + self._reading) / whole:.1%} of the {whole:.1f} s of this run'
            + (f'; {self._failures} probes failed' if self._failures else '')
        )

    def _read(self) -> None:
        rank = dict(rank=get_rank(), world_size=get_world_size())
        train = load_images(self.train, 'train of OnlineProbeHook', self.max_train, **rank)
        test = load_images(self.test, 'test of OnlineProbeHook', self.max_test, **rank)
        self._images, self._labels = zip(train, test, strict=True)
        if 'knn' in self.judges and len(self._labels[0]) < self.k:
            raise ValueError(
                f'train of OnlineProbeHook has {len(self._labels[0])} images, fewer than k={self.k}: raise max_train, '
                'or lower k'
            )

    def _probe(self, runner: Runner, step: int) -> float:
        """Probe now, unless that has been done, and return the seconds that it took."""
        if runner.message_hub.get_info(_DONE) == step:
            return 0.0
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the time of earlier steps is not the probe's
        start = time.perf_counter()
        scores = None
        try:
            scores = self._evaluate(getattr(runner, 'optim_wrapper', None))
        except Exception as error:
            if not self._probes:
                raise
            self._failures += 1
            runner.logger.warning(f'Online probe at iteration {step} failed: {type(error).__name__}: {error}')
        seconds = time.perf_counter() - start
        self._seconds += seconds
        if scores is not None:
            self._probes += 1
            self._log(runner, step, scores, seconds)
        return seconds

    def _evaluate(self, optim_wrapper: Any) -> dict[str, float]:
        with undisturbed(self._model):
            features = [self._features(images, optim_wrapper) for images in self._images]
            return run_on_all_ranks(lambda: self._classify(features) if get_rank() == 0 else None)[0]

    def _features(self, images: Tensor | None, optim_wrapper: Any) -> Tensor:
        """Compute features (n, D) of all images from this process's share of them."""

        def compute_share() -> Tensor | None:
            if images is None:
                return None
            preprocess = partial(normalise, self._model.data_preprocessor)
            # In the run's precision, unless it has several optimiser wrappers, which have none in common.
            single = hasattr(optim_wrapper, 'optim_context') and not hasattr(optim_wrapper, 'keys')
            with optim_wrapper.optim_context(self._model) if single else nullcontext():
                return extract_features(_unwrap(self._model.backbone), images, self.batch_size, preprocess)

        shares = run_on_all_ranks(compute_share)
        filled = [(rank, share) for rank, share in enumerate(shares) if share is not None]
        features = torch.empty(sum(len(share) for _, share in filled), filled[0][1].shape[1])
        for rank, share in filled:
            features[rank :: len(shares)] = share
        return features

    def _classify(self, features: list[Tensor]) -> dict[str, float]:
        data = (features[0], self._labels[0], features[1], self._labels[1])
        return {
            name: knn_accuracy(*data, k=self.k) if name == 'knn' else linear_probe_accuracy(*data)
            for name in self.judges
        }

    def _log(self, runner: Runner, step: int, scores: dict[str, float], seconds: float) -> None:
        values = {f'probe/{name}': value for name, value in {**scores, 'seconds': seconds}.items()}
        for key, value in values.items():
            runner.message_hub.update_scalar(key, value)
        runner.message_hub.update_info(_DONE, step)
        logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        runner.visualizer.add_scalars(values, step=step, file_path=getattr(logger, 'json_log_path', None))
        text = ', '.join(f'{name} {value:.2f} %' for name, value in scores.items())
        runner.logger.info(f'Online probe at iteration {step}: {text} ({seconds:.1f} s)')


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put back afterwards what a probe might change: random states, and which modules run compiled code.

    Args:
        model: Inside the context all its modules run their ordinary code.
    """
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


def run_on_all_ranks(work: Callable[[], Result]) -> list[Result]:
    """Run something on every rank and return all results, by rank; if it fails on one, raise on all.

    Args:
        work: Must not exchange anything between ranks, so that none waits forever for one that failed.

    Raises:
        Exception: What ``work`` raises here.
        RuntimeError: If it failed on another rank only.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:  # the others wait for an answer
        failure = error
    text = None if failure is None else f'{type(failure).__name__}: {failure}'
    texts, results = zip(*all_gather_object((text, result)), strict=True)
    if failure is not None:
        raise failure
    for rank, text in enumerate(texts):
        if text is not None:
            raise RuntimeError(f'failed on rank {rank}: {text}')
    return list(results)


def _unwrap(module: nn.Module) -> nn.Module:
    return module.module if is_model_wrapper(module) else module
