"""A resumed run keeps the schedules of its checkpoint. Notice when the config now says something else."""

from typing import Any

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


def _flat(schedulers: Any) -> list:
    if schedulers is None:
        return []
    if isinstance(schedulers, dict):
        return [s for group in schedulers.values() for s in group]
    return list(schedulers)
