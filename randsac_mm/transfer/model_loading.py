"""Strict loading of whole models: every tensor of a checkpoint or none."""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .backbone_keys import collapse
from .reading import find_state, read_checkpoint


def load_model(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a checkpoint of the same config into a whole model; every tensor must fit.

    mmengine's own loading only warns about missing and unexpected keys and goes on with random weights.

    Returns:
        The checkpoint's ``meta``, empty if there is none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely or does not fit. The model is unchanged then.
    """
    checkpoint = read_checkpoint(path)
    state = find_state(checkpoint, path)
    errors = load_or_restore(model, state)
    if any(errors):
        missing, unexpected, mismatched = ('; '.join(collapse(lines)) or 'none' for lines in errors)
        raise ValueError(
            f'{path} does not fit the config, nothing was loaded.\n  missing keys: {missing}\n'
            f'  unexpected keys: {unexpected}\n  other shapes: {mismatched}\n{_fix(model, state)}'
        )
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


def load_or_restore(
    module: nn.Module, state: Mapping[str, Tensor], may_lack: Collection[str] = (), may_have: Collection[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Load a state dict, or leave the module unchanged if any tensor does not fit; its own loading hooks run.

    ``may_lack``: keys of the module that the state dict need not have; ``may_have``: the other way round.

    Returns:
        Missing keys, unexpected keys and errors of tensors of other shapes; all empty if everything was loaded.
    """
    own = module.state_dict()
    own.update({key: value.detach().clone() for key, value in own.items()})
    missing, unexpected, mismatched = [], [], []
    try:
        wanted = OrderedDict((key, value) for key, value in state.items() if key not in may_have)
        vars(wanted)['_metadata'] = getattr(state, '_metadata', None)  # versions of modules, which torch reads
        result = module.load_state_dict(wanted, strict=False)
        missing = sorted(set(result.missing_keys) - set(may_lack))
        unexpected = sorted(result.unexpected_keys)
    except (RuntimeError, ValueError) as error:  # ValueError: a loading hook refuses a tensor
        lines = [line.strip().rstrip('.') for line in str(error).splitlines()]
        mismatched = [line for line in lines if line.startswith('size mismatch')] or lines
        missing = sorted(own.keys() - state.keys() - set(may_lack))
        unexpected = sorted(state.keys() - own.keys() - set(may_have))
    if missing or unexpected or mismatched:
        module.load_state_dict(own)
    return missing, unexpected, mismatched


def _fix(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    heads = {'decode_head', 'roi_head', 'head'} & {name for name, _ in model.named_children()}
    if heads and not any(key.startswith(tuple(f'{head}.' for head in heads)) for key in state):
        return (
            f'It has no {"/".join(sorted(heads))}: it comes from pre-training or is a backbone. Train with this config '
            'first (tools/train.py CONFIG) and use the checkpoint of that run'
        )
    return 'Use the config that it was trained with: same architecture, patch size and num_classes'
