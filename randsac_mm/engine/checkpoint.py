"""Checkpoints that survive a kill at any moment and from which a run continues bit for bit."""

import os
import shutil
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, get_rank, get_world_size, is_main_process
from mmengine.fileio import HardDiskBackend, LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from randsac_mm.engine import random_state
from randsac_mm.engine.fast_forward import ResumedBatches, samplers
from randsac_mm.engine.plain import from_plain, to_plain
from randsac_mm.engine.schedule import check_schedules
from randsac_mm.registry import register

PARTIAL = '.partial'


@register('HOOKS', everywhere=True)
class ResumableCheckpointHook(CheckpointHook):
    """Save checkpoints from which an interrupted run continues as if nothing had happened.

    Takes the place of mmengine's hook: ``default_hooks=dict(checkpoint=dict(type='ResumableCheckpointHook', ...))``.

    - A checkpoint is written beside its final name and renamed when it is complete; ``last_checkpoint`` is replaced in
      the same way; only then are older ones deleted. A kill at any moment leaves a folder that can be resumed.
    - The random states of every rank are saved and restored where the run left off. Validation leaves them untouched.
      On one machine and with as many ranks as before the resumed run equals the uninterrupted one bit for bit when
      saved at the end of epochs (any number of workers, ``persistent_workers=False``, ``worker_init_fn`` of
      :mod:`randsac_mm.engine.workers`) or iteration-based with ``num_workers=0``.
    - The whole file loads with ``torch.load(weights_only=True)``.

    FSDP's and DeepSpeed's folders are renamed in the same way; DeepSpeed calls no hook on loading, so random states are
    not restored there. Remote storage back-ends write in place.

    Args:
        interval: Epochs, or iterations, between checkpoints; -1: never but at the end.
        by_epoch: Whether ``interval`` counts epochs.
        max_keep_ckpts: Checkpoints to keep, at least 2; -1: all.
        keep_schedule: Resume even if the config's schedules differ from the checkpoint's, and keep the latter.
        **kwargs: Every other option of mmengine's ``CheckpointHook``, among them ``save_best``.

    Raises:
        ValueError: If ``max_keep_ckpts`` is 1.
        TypeError: If an option is unknown.

    Example:
        >>> ResumableCheckpointHook(interval=10, max_keep_ckpts=3).max_keep_ckpts
        3
    """

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        keep_schedule: bool = False,
        **kwargs: Any,
    ) -> None:
        if max_keep_ckpts == 1:
            raise ValueError(
                'max_keep_ckpts=1 leaves no way back when the only checkpoint is damaged; set it to 2 or more, or to '
                '-1 to keep all'
            )
        super().__init__(interval=interval, by_epoch=by_epoch, max_keep_ckpts=max_keep_ckpts, **kwargs)
        if self.args:  # mmengine collects what it does not know and fails at the first checkpoint
            raise TypeError(f'ResumableCheckpointHook has no option {", ".join(sorted(self.args))}')
        self.keep_schedule = keep_schedule
        self._loaded_meta: dict[str, Any] | None = None
        self._saving_meta: dict[str, Any] = {}
        self._training_state: dict[str, Any] | None = None

    # ---- what goes into the file ------------------------------------------------------------------------------------

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Replace everything but tensors and plain values, after all other hooks have added theirs."""
        # FlexibleRunner counts one epoch too many when a checkpoint is written again after validation.
        checkpoint['meta'].update(self._saving_meta)
        dropped: list[str] = []
        plain = {key: to_plain(value, key, dropped) for key, value in checkpoint.items()}
        checkpoint.clear()
        checkpoint.update(plain)
        if dropped:
            runner.logger.warning(f'Not in the checkpoint, having no plain form: {", ".join(dropped)}')

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Bring back the original types before the runner reads them, and remember the random states."""
        for key in list(checkpoint):
            checkpoint[key] = from_plain(checkpoint[key])
        self._loaded_meta = checkpoint.get('meta', {})
        if getattr(runner, '_resume', False) and not self.keep_schedule:
            info = checkpoint.get('message_hub', {}).get('runtime_info', {})
            check_schedules(
                runner.param_schedulers,
                checkpoint.get('param_schedulers'),
                {'max_epochs': runner.max_epochs, 'max_iters': runner.max_iters},
                {key: info[key] for key in ('max_epochs', 'max_iters') if key in info},
            )

    # ---- resuming ---------------------------------------------------------------------------------------------------

    def before_train(self, runner: Any) -> None:
        """Prepare the folder and, in a resumed run, put the random states back where the run left off."""
        super().before_train(runner)
        local = (LocalBackend, HardDiskBackend)
        self._local = isinstance(self.file_backend, local) or isinstance(getattr(self.file_client, 'client', 0), local)
        if self._local and is_main_process():
            for leftover in Path(self.out_dir).glob(f'*{PARTIAL}'):
                _remove(leftover)
        if self.save_best is not None:
            self._adopt_best_checkpoints()

        loop, meta = runner.train_loop, self._loaded_meta or {}
        if not self.by_epoch and isinstance(loop, EpochBasedTrainLoop):
            runner.logger.warning(
                'by_epoch=False with an epoch-based loop: a run that is resumed repeats its epoch from the start'
            )
        if runner.iter == 0:  # nothing was resumed, at most weights were loaded
            return
        for sampler in samplers(loop.dataloader):
            sampler.seed = meta.get('sampler_seed', sampler.seed)
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = ResumedBatches(
                loop.dataloader_iterator, runner.iter, lambda: self._restore_random_state(runner, meta)
            )
        else:
            self._restore_random_state(runner, meta)

    def _restore_random_state(self, runner: Any, meta: dict[str, Any]) -> None:
        states = meta.get('random_states')
        if states is None:
            runner.logger.warning(
                'The checkpoint holds no random states: the resumed run will differ from an uninterrupted one'
            )
        elif len(states) != get_world_size():
            random_state.reseed(int(meta.get('seed') or 0), runner.iter, get_rank())
            runner.logger.warning(
                f'The checkpoint was written by {len(states)} processes and {get_world_size()} resume it: each starts '
                'from a new random seed, and the run will differ from an uninterrupted one'
            )
        else:
            random_state.restore(states[get_rank()])

    def _adopt_best_checkpoints(self) -> None:
        """Point to the best checkpoints in this folder: a moved or copied one must not lose or delete another's."""

        def here(path: str | None) -> str | None:
            if not path:
                return None
            name = self.file_backend.join_path(self.out_dir, os.path.basename(path))
            return name if self.file_backend.exists(name) else None

        if len(self.key_indicators) == 1:
            self.best_ckpt_path = here(self.best_ckpt_path)
        else:
            self.best_ckpt_path_dict = {key: here(path) for key, path in self.best_ckpt_path_dict.items()}

    def before_val(self, runner: Any) -> None:
        """Remember the random states, so that validating more or less often does not change the training."""
        self._training_state = random_state.capture()

    def after_val(self, runner: Any) -> None:
        """Put the random states back to where the training was."""
        if self._training_state is not None:
            random_state.restore(self._training_state)
        self._training_state = None

    # ---- saving -----------------------------------------------------------------------------------------------------

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        # Called on every rank, after training and again after validation if that found a better model.
        if isinstance(runner, _AtomicRunner):
            runner = runner.wrapped
        outdated = self._count_in(step)
        runner.message_hub.update_info('keep_ckpt_ids', [*outdated, *getattr(self, 'keep_ckpt_ids', [])])
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)

        meta = dict(meta, random_states=all_gather_object(self._training_state or random_state.capture()))
        seeds = [sampler.seed for sampler in samplers(runner.train_dataloader)]
        if seeds and seeds[0] is not None:
            meta['sampler_seed'] = int(seeds[0])
        self._write(
            runner,
            self.out_dir,
            name,
            file_client_args=self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            pointer = Path(runner.work_dir, 'last_checkpoint')
            partial = pointer.with_name(pointer.name + PARTIAL)
            partial.write_text(str(self.last_ckpt))
            _replace(partial, pointer)
            for old in outdated:
                self._delete(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _count_in(self, step: int) -> list[int]:
        """Add ``step`` to the kept checkpoints and return those that may be deleted once it is complete."""
        if self.max_keep_ckpts <= 0 or step in self.keep_ckpt_ids:
            return []
        outdated = []
        while len(self.keep_ckpt_ids) >= self.max_keep_ckpts:
            outdated.append(self.keep_ckpt_ids.popleft())
        self.keep_ckpt_ids.append(step)
        return outdated

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        # The parent deletes the previous best before it writes the new one; without a path it deletes nothing.
        before = dict(self._best_paths())
        self._set_best_paths(dict.fromkeys(before))
        super()._save_best_checkpoint(_AtomicRunner(runner, self), metrics)
        after = {key: path or before.get(key) for key, path in self._best_paths().items()}
        self._set_best_paths(after)
        if is_main_process():
            for path in set(before.values()) - set(after.values()):
                self._delete(path)

    def _best_paths(self) -> dict[str, str | None]:
        if hasattr(self, 'best_ckpt_path_dict'):
            return self.best_ckpt_path_dict
        return {'': self.best_ckpt_path}

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if hasattr(self, 'best_ckpt_path_dict'):
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths['']

    def _delete(self, path: str | None) -> None:
        if path and self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif path and self.file_backend.isdir(path):  # FSDP and DeepSpeed write folders
            self.file_backend.rmtree(path)

    def _write(self, runner: Any, out_dir: str, filename: str, meta: dict, **kwargs: Any) -> None:
        """Write one checkpoint under a temporary name and rename it when it is complete, on all ranks together."""
        target = Path(out_dir, filename)
        partial = target.with_name(filename + PARTIAL)
        self._saving_meta = {key: meta[key] for key in ('epoch', 'iter')}
        try:
            runner.save_checkpoint(out_dir, partial.name if self._local else filename, meta=dict(meta), **kwargs)
        except BaseException:
            if self._local and is_main_process():
                _remove(partial)
            raise
        finally:
            self._saving_meta = {}
        if not self._local:
            return
        barrier()  # a sharded checkpoint is complete when the last rank has written its part
        if is_main_process():
            _replace(partial, target)


class _AtomicRunner:
    """A runner whose ``save_checkpoint`` goes through the hook's ``_write``, for the parent's ``save_best``."""

    def __init__(self, runner: Any, hook: ResumableCheckpointHook) -> None:
        self.wrapped, self._hook = runner, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def save_checkpoint(self, out_dir: str, filename: str, **kwargs: Any) -> None:
        self._hook._write(self.wrapped, out_dir, filename, **kwargs)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(partial: Path, target: Path) -> None:
    """Give a complete file or folder its final name; its contents reach the disk before the name does."""
    if partial.is_file():
        with partial.open('rb+') as file:
            os.fsync(file.fileno())
    elif target.is_dir():  # a folder cannot be renamed over another one
        shutil.rmtree(target)
    os.replace(partial, target)
