"""Checkpoints that survive a kill at any moment and from which a run continues bit for bit."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from randsac_mm.engine import random_state
from randsac_mm.engine.disk import PARTIAL, check_space, checkpoint_size, write_whole
from randsac_mm.engine.distributed import on_first_rank
from randsac_mm.engine.fast_forward import ResumedBatches, resume_within_epoch, samplers
from randsac_mm.engine.plain import from_plain, to_plain
from randsac_mm.engine.resume_check import check_resume, describe_numerics, read_first
from randsac_mm.engine.train_files import fingerprint, list_files, write_list
from randsac_mm.files import atomic_write
from randsac_mm.registry import register

INTERRUPTED = 'interrupted.pth'  # written when a signal ends the run; the next checkpoint replaces it


@register('HOOKS', everywhere=True)
class ResumableCheckpointHook(CheckpointHook):
    """Checkpoint hook from whose files an interrupted run continues as if nothing had happened.

    - A checkpoint is written beside its final name and renamed when it is complete; then ``last_checkpoint`` is
      replaced; only then are older ones deleted. A kill at any moment leaves a folder that can be resumed.
    - A run resumed by as many ranks as before equals the uninterrupted one bit for bit, wherever it was interrupted:
      with :class:`~randsac_mm.engine.SampleSeedHook`; otherwise with workers only if it is epoch-based, with
      ``persistent_workers=False`` and ``worker_init_fn=dict(type='seed_worker')``. DeepSpeed restores no random states.
    - If weights or optimiser state are not finite, or the disk fails, nothing is written, replaced or deleted; the
      training goes on, tries again at the next checkpoint, and ends with the error if it has no last one.
    - A run continues only from a checkpoint that fits it, see :mod:`randsac_mm.engine.resume_check`.

    Args:
        interval: Epochs, or iterations, between checkpoints; -1: only at the end.
        by_epoch: Whether ``interval`` counts epochs.
        max_keep_ckpts: Checkpoints to keep, at least 2; -1: all.
        keep_schedule: Resume even if the config's schedules, learning rate, weight decay or betas differ from the
            checkpoint's, and keep the latter.
        new_schedule: Resume with those of the config, after a warm-up; see ``engine.schedule.use_new_schedule``.
        allow_changes: Resume even if other settings, or the training files, differ from the checkpoint's.
        attempt: If above the checkpoint's, resume with other random numbers; see ``engine.launch.train``.
        **kwargs: Every other option of mmengine's ``CheckpointHook``, among them ``save_best``.

    Raises:
        ValueError: If ``max_keep_ckpts`` is 1, an option is unknown, or both kinds of schedule are chosen.
    """

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        keep_schedule: bool = False,
        new_schedule: bool = False,
        allow_changes: bool = False,
        attempt: int = 0,
        **kwargs: Any,
    ) -> None:
        if max_keep_ckpts == 1:
            raise ValueError('max_keep_ckpts=1 would leave none if the only one is damaged: use 2 or more, or -1')
        super().__init__(interval=interval, by_epoch=by_epoch, max_keep_ckpts=max_keep_ckpts, **kwargs)
        if self.args:  # mmengine would fail at the first checkpoint
            raise ValueError(f'ResumableCheckpointHook has no option {", ".join(sorted(self.args))}')
        if keep_schedule and new_schedule:
            raise ValueError(
                "keep_schedule=True keeps the checkpoint's, new_schedule=True takes the config's: choose one"
            )
        self.keep_schedule, self.new_schedule, self.allow_changes = keep_schedule, new_schedule, allow_changes
        self.attempt = attempt
        self._files: list[str] = []  # that the run trains on
        self._fingerprint: dict[str, Any] | None = None
        self._unsaved: Exception | None = None  # why there is no last checkpoint
        self._draws_anew = False
        self._loaded_meta: dict[str, Any] = {}
        self._saving_meta: dict[str, Any] = {}
        self._training_state: dict[str, Any] | None = None
        self._epoch_state: dict[str, Any] | None = None

    before_run = read_first

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Replace everything but tensors and plain values, after all other hooks have added theirs."""
        # FlexibleRunner counts one epoch too many when a checkpoint is written again after validation.
        checkpoint['meta'].update(self._saving_meta)
        dropped: list[str] = []
        for key in list(checkpoint):
            checkpoint[key] = to_plain(checkpoint[key], key, dropped)
        if dropped:
            runner.logger.warning(f'Not in the checkpoint, having no plain form: {", ".join(dropped)}')

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Bring back the original types before the runner reads them, and keep the random states."""
        for key in list(checkpoint):
            checkpoint[key] = from_plain(checkpoint[key])
        self._loaded_meta = checkpoint.get('meta', {})
        if getattr(runner, '_resume', False):
            check_resume(runner, checkpoint, self)
            before = int(self._loaded_meta.get('attempt', 0))
            self._draws_anew = self.attempt > before
            self.attempt = max(self.attempt, before)

    def train_files(self, runner: Any) -> list[str]:
        """Return a line for each file that the run trains on."""
        self._files = self._files or list_files(runner.train_dataloader.dataset)
        return self._files

    def before_train(self, runner: Any) -> None:
        """Prepare the folder and, in a resumed run, restore the random states where it continues."""
        # mmengine would delete checkpoints now; until the first new one is complete nothing is.
        kept = runner.message_hub.runtime_info.pop('keep_ckpt_ids', [])
        super().before_train(runner)
        self.keep_ckpt_ids = deque(kept)
        runner.save_checkpoint = partial(self._save_complete, runner, runner.save_checkpoint)
        runner.visualizer.add_scalars = partial(self._log, runner, runner.visualizer.add_scalars)
        if isinstance(self.file_backend, LocalBackend):
            there = [Path(self.out_dir, self.filename_tmpl.format(step)) for step in kept]
            count = max(self.max_keep_ckpts, 1) + 1 - sum(path.exists() for path in there)
            size = checkpoint_size(runner) * (1 if runner.iter else 3)  # Adam has two averages for each weight
            advice = f' for {count} checkpoints: set default_hooks.checkpoint.max_keep_ckpts, or use another --work-dir'
            on_first_rank(lambda: check_space(Path(self.out_dir), count * size, advice))
        if self.save_best is not None:
            # A run whose folder was moved or copied must not lose its best checkpoint or delete another's.
            self._best_paths = {key: self._in_this_folder(path) for key, path in self._best_paths.items()}
        if runner.iter == 0:  # nothing was resumed, at most weights were loaded
            return
        loop = runner.train_loop
        for sampler in samplers(loop.dataloader):
            sampler.seed = self._loaded_meta.get('sampler_seed', sampler.seed)
        restore = partial(self._restore_random_state, runner)
        if hasattr(loop, 'dataloader_iterator') and runner.iter < runner.max_iters:
            loop.dataloader_iterator = ResumedBatches(loop.dataloader_iterator, runner.iter, restore)
        elif 'batches_done' in self._loaded_meta:
            done = int(self._loaded_meta['batches_done'])
            resume_within_epoch(loop, done, partial(restore, 'epoch_random_states'), restore)
        else:
            restore()

    def before_train_epoch(self, runner: Any) -> None:
        """Keep the random states in which the data loader starts, to start it again within this epoch."""
        self._epoch_state = random_state.capture()

    def _restore_random_state(self, runner: Any, key: str = 'random_states') -> None:
        states = self._loaded_meta.get(key)
        if states is None:
            runner.logger.warning('No random states in the checkpoint: the run will differ from an uninterrupted one')
        elif len(states) != get_world_size():
            random_state.reseed(int(self._loaded_meta.get('seed') or 0), runner.iter, get_rank())
            runner.logger.warning(
                f'The checkpoint was written by {len(states)} processes and {get_world_size()} resume it: each draws '
                'new random numbers, and the run will differ from an uninterrupted one'
            )
        else:
            random_state.restore(states[get_rank()])
        if self._draws_anew:
            random_state.reseed(int(self._loaded_meta.get('seed') or 0), runner.iter, get_rank(), self.attempt)

    def before_val(self, runner: Any) -> None:
        """Keep the random states, so that validating more or less often does not change the training."""
        self._training_state = random_state.capture()

    def after_val(self, runner: Any) -> None:
        """Restore the random states of the training."""
        random_state.restore(self._training_state)
        self._training_state = None

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        """Save one checkpoint; called on every rank, after training and again if validation found a better model."""
        before = self.keep_ckpt_ids.copy()
        with self._surviving(runner):
            outdated = []
            if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
                while len(self.keep_ckpt_ids) >= self.max_keep_ckpts:
                    outdated.append(self.keep_ckpt_ids.popleft())
                self.keep_ckpt_ids.append(step)
            # With the outdated ones: a run that is killed before it deletes them does so when it has been resumed.
            runner.message_hub.update_info('keep_ckpt_ids', [*outdated, *self.keep_ckpt_ids])
            self._save(runner, self.filename_tmpl.format(step), meta, self.by_epoch)
            if is_main_process():
                unfinished = [path.name for path in Path(self.out_dir).glob(f'*{PARTIAL}')]
                for name in (*map(self.filename_tmpl.format, outdated), *unfinished, INTERRUPTED):
                    self._delete(self.file_backend.join_path(self.out_dir, name))
            return
        self.keep_ckpt_ids = before

    def save_interrupted(self, runner: Any, validating: bool = False) -> None:
        """Save a checkpoint in the last hook of a step, or in a validation; called on every rank."""
        meta = {'epoch': runner.epoch, 'iter': runner.iter + (not validating)}
        self._save(runner, INTERRUPTED, meta, by_epoch=False)

    def _save(self, runner: Any, name: str, meta: dict, by_epoch: bool) -> None:
        """Save one checkpoint, and make it the last."""
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        meta = dict(meta, random_states=all_gather_object(self._training_state or random_state.capture()))
        meta['attempt'] = self.attempt
        if not by_epoch and not hasattr(runner.train_loop, 'dataloader_iterator'):
            done = meta.get('iter', runner.iter + 1) - meta.get('epoch', runner.epoch) * len(runner.train_dataloader)
            if done:
                meta.update(batches_done=done, epoch_random_states=all_gather_object(self._epoch_state))
        if seeds := [s.seed for s in samplers(runner.train_dataloader) if s.seed is not None]:
            meta['sampler_seed'] = int(seeds[0])
        self._fingerprint = self._fingerprint or on_first_rank(lambda: fingerprint(self.train_files(runner)))
        meta.update(train_files=self._fingerprint, numerics=describe_numerics(runner))
        runner.save_checkpoint(
            self.out_dir,
            name,
            file_client_args=self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            pointer = Path(runner.work_dir, 'last_checkpoint')
            if pointer.is_dir():
                pointer.rename(f'{pointer}.folder')
            with atomic_write(pointer) as temporary:
                temporary.write_text(str(self.last_ckpt))
            if self._files:
                write_list(self._files, Path(runner.work_dir))
                self._files = []
        self._unsaved = None

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        # The parent deletes the previous best before it writes the new one; without a path it deletes nothing.
        before = dict(self._best_paths)
        with self._surviving(runner):
            self._best_paths = dict.fromkeys(before)
            super()._save_best_checkpoint(runner, metrics)
            self._best_paths = {key: path or before.get(key) for key, path in self._best_paths.items()}
            if is_main_process():
                for path in set(before.values()) - set(self._best_paths.values()):
                    self._delete(path)
            return
        self._best_paths = before

    @contextmanager
    def _surviving(self, runner: Any) -> Iterator[None]:
        """Log why a checkpoint cannot be saved, instead of raising, and forget that it was to be."""
        info = dict(runner.message_hub.runtime_info)
        try:
            yield
        except OSError as error:
            self._unsaved = error
            runner.logger.error(f'{error}; earlier checkpoints stay, and the training goes on until the next one')
            runner.message_hub.runtime_info.clear()
            runner.message_hub.runtime_info.update(info)

    def after_train(self, runner: Any) -> None:
        """Publish the checkpoint after training; raise what prevented the last one from being saved, if anything."""
        if self._unsaved is not None:
            raise self._unsaved
        super().after_train(runner)

    def _log(self, runner: Any, write: Callable, *args: Any, **kwargs: Any) -> None:
        """Write a line to JSON or TensorBoard; a full disk ends no training."""
        try:
            write(*args, **kwargs)
        except OSError as error:
            runner.logger.error(f'The log cannot be written ({error})')

    @property
    def _best_paths(self) -> dict[str, str | None]:
        """Paths by metric; mmengine keeps a plain path if there is one metric."""
        return self.best_ckpt_path_dict if hasattr(self, 'best_ckpt_path_dict') else {'': self.best_ckpt_path}

    @_best_paths.setter
    def _best_paths(self, paths: dict[str, str | None]) -> None:
        if hasattr(self, 'best_ckpt_path_dict'):
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths['']

    def _in_this_folder(self, path: str | None) -> str | None:
        here = path and self.file_backend.join_path(self.out_dir, Path(path).name)
        return here if here and self.file_backend.exists(here) else None

    def _delete(self, path: str | Path | None) -> None:
        if path and self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif path and self.file_backend.isdir(path):  # FSDP and DeepSpeed write folders
            self.file_backend.rmtree(path)

    def _save_complete(self, runner: Any, save: Callable, out_dir: str, filename: str, **kwargs: Any) -> None:
        """Save a checkpoint of any kind, whole or not at all."""
        meta = dict(kwargs.pop('meta', None) or {})  # a copy: mmengine changes it
        self._saving_meta = {key: meta[key] for key in ('epoch', 'iter') if key in meta}
        is_local = isinstance(self.file_backend, LocalBackend)
        write = partial(save, out_dir, meta=meta, **kwargs)
        write_whole(runner, Path(out_dir, filename) if is_local else filename, write, self._saving_meta)
