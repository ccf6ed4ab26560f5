"""Schedules: another number of epochs, and a resumed run whose config now says something else than its checkpoint."""

from typing import Any

from mmengine.config import Config
from mmengine.optim import _ParamScheduler

# What a config decides; the other entries of a scheduler's state are progress.
_SETTINGS = ('begin', 'end', 'by_epoch', 'T_max', 'total_iters', 'total_steps', 'step_size', 'milestones', 'gamma')
_UNLIMITED = int(1e9)  # mmengine's default `end`


def check_schedules(schedulers: Any, saved: Any, runner_max: dict[str, int], saved_max: dict[str, int]) -> None:
    """Compare the schedules of the config with those of the checkpoint that is about to replace them.

    Args:
        schedulers: ``runner.param_schedulers``: built schedulers, in a list, or in a dict of lists.
        saved: ``checkpoint['param_schedulers']``: their saved states in the same arrangement.
        runner_max: ``max_epochs`` and ``max_iters`` of the config.
        saved_max: The same of the run that wrote the checkpoint; may be empty.

    Raises:
        ValueError: If a setting differs, or the length of the training does while a schedule ends with it.
    """
    built = [s for s in _flat(schedulers) if isinstance(s, _ParamScheduler)]
    states = _flat(saved)
    changes = []
    if built and states and len(built) != len(states):
        changes.append(f'param_scheduler has {len(built)} entries in the config and {len(states)} in the checkpoint')
    for index, (new, old) in enumerate(zip(built, states, strict=False)):
        for key in _SETTINGS:
            ours = getattr(new, key, None)
            if key in old and ours is not None and ours != old[key]:
                name = f'param_scheduler[{index}] ({type(new).__name__})'
                changes.append(f'{name} {key} is {ours} in the config and {old[key]} in the checkpoint')
        limit = 'max_epochs' if new.by_epoch else 'max_iters'
        before, now = saved_max.get(limit), runner_max[limit]
        if before and before != now and before <= old.get('end', _UNLIMITED) < _UNLIMITED and not changes:
            changes.append(f'{limit} is {now} in the config and {before} in the checkpoint, whose schedule ends there')
    if changes:
        raise ValueError(
            f'the run cannot be resumed with a changed schedule: {"; ".join(changes)}. mmengine would keep that of the '
            'checkpoint without a word. Put the old values back, or start a new run from these weights (load_from=..., '
            'no --resume), or keep the old schedule on purpose with default_hooks.checkpoint.keep_schedule=True'
        )


def set_epochs(cfg: Config, epochs: int) -> None:
    """Give a run another number of epochs; warm-up and decay of the learning rate keep their shares of it.

    Understands what all configs of pre-training, linear probe and fine-tuning here have: cosine decay by epoch until
    the end, with or without a linear warm-up before it. The warm-up keeps its share of a shorter run, at least one
    epoch, and its length in a longer one.

    Args:
        cfg: The config; it is changed.
        epochs: The number of epochs, at least 2 if there is a warm-up, else at least 1.

    Raises:
        ValueError: If there are too few epochs for a warm-up and a decay, or the schedule has another form.

    Example:
        >>> cfg = Config(dict(
        ...     train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=800),
        ...     param_scheduler=[
        ...         dict(type='LinearLR', by_epoch=True, begin=0, end=20),
        ...         dict(type='CosineAnnealingLR', by_epoch=True, begin=20, end=800, T_max=780),
        ...     ],
        ... ))
        >>> set_epochs(cfg, 80)
        >>> cfg.param_scheduler[0].end, cfg.param_scheduler[1].T_max, cfg.train_cfg.max_epochs
        (2, 78, 80)
    """
    loop = cfg.get('train_cfg') or {}
    before = loop.get('max_epochs')
    if before is None:
        raise ValueError(
            f'--epochs {epochs}: the length of this run is not counted in epochs, train_cfg is {dict(loop)}; change '
            'train_cfg and param_scheduler with --cfg-options'
        )
    entries = cfg.get('param_scheduler') or []
    entries = [entries] if isinstance(entries, dict) else list(entries)
    warm, decay = _warm_and_decay(entries, before, epochs)
    least = 2 if warm else 1
    if epochs < least:
        room = 'a warm-up and a decay' if warm else 'a decay'
        raise ValueError(f'--epochs {epochs} leaves no room for {room}: use {least} or more')
    warmup = min(warm['end'], max(1, round(warm['end'] * epochs / before))) if warm else 0
    loop['max_epochs'] = epochs
    if warm:
        warm['end'] = warmup
    if decay:
        decay.update(begin=warmup, end=epochs, T_max=epochs - warmup)
    for name, value in (('max_epochs', epochs), ('warmup_epochs', warmup)):
        if name in cfg:  # what the entries above were made from
            cfg[name] = value


def _warm_and_decay(entries: list[dict], last: int, epochs: int) -> tuple[dict | None, dict | None]:
    """Give the entries for warm-up and decay, each None if there is none; see :func:`set_epochs` for the error."""
    if not entries:
        return None, None
    warm, decay = (entries[0] if len(entries) == 2 else None), entries[-1]
    begin = warm.get('end') if warm else 0
    fits = len(entries) <= 2 and _form(decay) == ('CosineAnnealingLR', True, begin) and decay.get('end') == last
    fits = fits and decay.get('T_max') == last - begin and (warm is None or _form(warm) == ('LinearLR', True, 0))
    if not fits:
        forms = ', '.join(f'{e.get("type")} ({_unit(e)} {e.get("begin", 0)} to {e.get("end")})' for e in entries)
        raise ValueError(
            f'--epochs {epochs}: param_scheduler is {forms}, and only LinearLR from epoch 0 followed by '
            f'CosineAnnealingLR until epoch {last}, or that one alone, can be changed; give train_cfg.max_epochs and '
            'param_scheduler with --cfg-options'
        )
    return warm, decay


def _form(entry: dict) -> tuple:
    return entry.get('type'), entry.get('by_epoch', True), entry.get('begin', 0)


def _unit(entry: dict) -> str:
    return 'epoch' if entry.get('by_epoch', True) else 'step'


def _flat(schedulers: Any) -> list:
    if schedulers is None:
        return []
    if isinstance(schedulers, dict):
        return [s for group in schedulers.values() for s in group]
    return list(schedulers)
