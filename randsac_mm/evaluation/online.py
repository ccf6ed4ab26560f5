"""The online probe: how good the features are, while pre-training runs."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook, IterTimerHook, LoggerHook
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor
from torch.utils.data import Dataset

from randsac_mm.registry import register

from .features import extract_features
from .knn import knn_accuracy
from .linear import linear_probe_accuracy
from .online_data import ImageShare, load_images
from .online_features import ProbedEncoder, synchronise, undisturbed
from .online_ranks import gather_features, on_all_ranks, on_main_rank

_DONE = 'probe_step'  # in the message hub, and thereby in checkpoints: the last step that was probed


@register('HOOKS', everywhere=True)
class OnlineProbeHook(Hook):
    """Judge the features of the encoder on labelled images while it is trained on images without labels.

    ``custom_hooks = [dict(type='OnlineProbeHook', train=dict(type=...), test=dict(type=...))]``. Before the first step,
    then every ``interval`` epochs or iterations, and at the end, the averaged last-layer tokens of both sets are
    computed (whole images, no mask, evaluation mode, in the precision of the run's ``optim_wrapper``) and judged. The
    results, ``probe/knn`` and ``probe/linear`` in percent and ``probe/seconds``, stand beside the loss in everything
    that the visualizer writes (JSON, TensorBoard), at the number of steps done so far. At the end the log says what all
    probes together have cost.

    The training goes on as if nothing had happened: with the hook and without it, it ends with the same weights. Random
    states and modes are put back, gradients and compiled code are not touched, and the probe's time counts neither in
    ``time``, ``data_time`` and ``eta`` nor in the shares of ``WhereTimeGoesHook``.

    Features are computed by all processes together and judged by the first. A probe that fails, for want of memory or
    because features have become infinite, ends the run if it is the first one, and otherwise is a warning.

    A resumed run continues the curve: a step that was probed before its checkpoint is not probed again.

    Args:
        train: The labelled data set to learn from, or its config: any one of mmpretrain or of ours. Its pipeline may
            load, resize and crop, must not be random and must end at one size. Normalisation is the model's.
        test: The labelled data set to be judged on.
        interval: Epochs, or iterations, between probes.
        by_epoch: Whether ``interval`` counts epochs; False with an iteration-based loop.
        judges: ``'knn'`` (:func:`~randsac_mm.evaluation.knn_accuracy`), ``'linear'``
            (:func:`~randsac_mm.evaluation.linear_probe_accuracy`) or both.
        max_train: Most images of ``train`` to use, chosen once such that classes keep their shares; None: all.
        max_test: The same for ``test``.
        seed: Which images are chosen.
        k: Neighbours of ``'knn'``.
        temperature: Of ``'knn'``.
        l2: Penalty of ``'linear'``.
        max_iter: Most iterations of ``'linear'``.
        batch_size: Images in a step of the feature extraction.
        max_bytes: Most main memory for the images that a process holds, as uint8.
        extract: Which method of the model gives features; None: its ``backbone``, see
            :class:`~randsac_mm.evaluation.online_features.ProbedEncoder`, which works with RandSAC, mmpretrain's MAE,
            other methods and classifiers.

    Raises:
        ValueError: If an argument is out of range; before training, if the data sets cannot be used, the model has no
            features, or ``by_epoch`` does not fit the loop.

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
        seed: int = 0,
        k: int = 20,
        temperature: float = 0.07,
        l2: float = 1e-3,
        max_iter: int = 500,
        batch_size: int = 256,
        max_bytes: int = 2**30,
        extract: str | None = None,
    ) -> None:
        known: dict[str, Callable[..., float]] = {
            'knn': lambda *data: knn_accuracy(*data, k=k, temperature=temperature),
            'linear': lambda *data: linear_probe_accuracy(*data, l2=l2, max_iter=max_iter),
        }
        if isinstance(judges, str) or not judges or not set(judges) <= set(known):
            raise ValueError(f'judges={judges!r} must list one or more of {", ".join(known)}, as ("knn",)')
        counts = dict(interval=interval, max_train=max_train, max_test=max_test, k=k, batch_size=batch_size)
        counts.update(max_iter=max_iter, max_bytes=max_bytes)
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f'seed={seed!r} must be an integer of at least 0')
        for name, value in counts.items():
            if value is None and name in ('max_train', 'max_test'):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f'{name}={value!r} must be an integer of at least 1')
        if temperature <= 0 or l2 <= 0:
            raise ValueError(f'temperature={temperature} and l2={l2} must be positive')
        if 'knn' in judges and max_train is not None and max_train < k:
            raise ValueError(f'max_train={max_train} images hold no k={k} neighbours: raise max_train or lower k')
        self.train, self.test = train, test
        self.interval, self.by_epoch = interval, by_epoch
        self.judges = tuple(judges)
        self.max_train, self.max_test, self.seed = max_train, max_test, seed
        self.k = k
        self.batch_size = batch_size
        self.max_bytes = max_bytes
        self.extract = extract
        self._judge = known
        self._sets: tuple[ImageShare, ImageShare] | None = None

    # ---- when --------------------------------------------------------------------------------------------------------

    def before_train(self, runner: Any) -> None:
        """Read the images and, in a new run, probe the untrained encoder."""
        self._began = time.perf_counter()
        self._seconds, self._probes, self._failures = 0.0, 0, 0
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                'by_epoch=True does not fit an iteration-based loop: set by_epoch=False, and interval, which is '
                f'{self.interval}, in iterations'
            )
        self._encoder = ProbedEncoder(runner.model, self.extract, getattr(runner, 'optim_wrapper', None))
        self._device = next(self._encoder.parameters()).device
        self._logger = next((hook for hook in runner.hooks if isinstance(hook, LoggerHook)), None)
        with undisturbed(self._encoder.model):
            self._sets = on_all_ranks(self._read)
        self._reading = time.perf_counter() - self._began
        train, test = (len(part.labels) for part in self._sets)
        runner.logger.info(
            f'Online probe: {train} labelled images to learn from and {test} to be judged on, read in '
            f'{self._reading:.1f} s'
        )
        if runner.message_hub.get_info(_DONE) is None:  # no resumed run, or one that had no probe before
            self._probe(runner, runner.iter)

    def after_train_epoch(self, runner: Any) -> None:
        """Probe after every ``interval`` epochs, and after the last one."""
        if self.by_epoch and ((runner.epoch + 1) % self.interval == 0 or runner.epoch + 1 == runner.max_epochs):
            self._probe(runner, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
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

    def after_train(self, runner: Any) -> None:
        """Probe what no interval has (a run that was stopped early), and say what it has cost."""
        if runner.message_hub.get_info(_DONE) != runner.iter:
            self._probe(runner, runner.iter)
        whole = time.perf_counter() - self._began
        cost = self._seconds + self._reading
        runner.logger.info(
            f'Online probe: {self._probes} probes took {self._seconds:.1f} s and reading the images '
            f'{self._reading:.1f} s, {cost / whole:.1%} of the {whole:.1f} s of this run'
            + (f'; {self._failures} probes failed' if self._failures else '')
        )

    # ---- what --------------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[ImageShare, ImageShare]:
        share = (get_rank(), get_world_size())
        train = load_images(self.train, 'train of OnlineProbeHook', self.max_train, self.seed, self.max_bytes, *share)
        if 'knn' in self.judges and len(train.labels) < self.k:
            raise ValueError(
                f'train of OnlineProbeHook has {len(train.labels)} images, fewer than k={self.k}: give it more, or '
                'lower k'
            )
        left = self.max_bytes - (0 if train.images is None else train.images.numel())
        test = load_images(self.test, 'test of OnlineProbeHook', self.max_test, self.seed, left, *share)
        return train, test

    def _probe(self, runner: Any, step: int) -> float:
        """Probe now, unless that has been done, and return the seconds that it took."""
        if runner.message_hub.get_info(_DONE) == step:
            return 0.0
        synchronise(self._device)
        start = time.perf_counter()
        try:
            scores = self._scores()
        except Exception as error:
            if not self._probes:
                raise
            scores = None
            self._failures += 1
            runner.logger.warning(f'Online probe at iteration {step} failed: {type(error).__name__}: {error}')
        seconds = time.perf_counter() - start
        self._seconds += seconds
        if scores is not None:
            self._probes += 1
            self._tell(runner, step, scores, seconds)
        return seconds

    def _scores(self) -> dict[str, float]:
        def features(part: ImageShare) -> Tensor:
            def mine() -> Tensor | None:
                if part.images is None:
                    return None
                return extract_features(self._encoder, part.images, self.batch_size, self._encoder.normalise)

            return gather_features(mine)

        with undisturbed(self._encoder.model):
            train, test = self._sets
            data = (features(train), train.labels, features(test), test.labels)
            return on_main_rank(lambda: self._judged(*data))

    def _judged(self, *data: Tensor) -> dict[str, float]:
        # float64 and scattered sums, which not every device has, or has deterministically.
        on_gpu = self._device.type == 'cuda' and not torch.are_deterministic_algorithms_enabled()
        data = tuple(part.to(self._device if on_gpu else 'cpu') for part in data)
        return {name: self._judge[name](*data) for name in self.judges}

    def _tell(self, runner: Any, step: int, scores: dict[str, float], seconds: float) -> None:
        values = {f'probe/{name}': value for name, value in {**scores, 'seconds': seconds}.items()}
        for key, value in values.items():
            runner.message_hub.update_scalar(key, value)
        runner.message_hub.update_info(_DONE, step)
        path = getattr(self._logger, 'json_log_path', None)
        runner.visualizer.add_scalars(values, step=step, file_path=path)
        text = ', '.join(f'{name} {value:.2f} %' for name, value in scores.items())
        runner.logger.info(f'Online probe at iteration {step}: {text} ({seconds:.1f} s)')
