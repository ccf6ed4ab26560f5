"""mmengine's roads to weights and pickles, all led to the reader that runs no code of a file."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import PickleHandler, register_handler
from mmengine.runner import checkpoint as theirs

from randsac_mm.engine.plain import from_plain
from randsac_mm.transfer.plain_pickle import read_pickle
from randsac_mm.transfer.reading import find_state, read_checkpoint

# Schemes of mmengine that stand for a table of addresses, and those that need a library of their own.
_TABLES = {
    **dict.fromkeys(('torchvision', 'modelzoo'), theirs.get_torchvision_models),
    **dict.fromkeys(('open-mmlab', 'openmmlab'), theirs.get_external_models),
    'mmcls': theirs.get_mmcls_models,
}
_OTHERS = ('', 'http://', 'https://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


class _PlainPickleHandler(PickleHandler):
    """Reads annotation files that end in ``.pkl`` as data; writes as mmengine's."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        try:
            return read_pickle(file)
        except Exception as error:  # damaged bytes raise anything
            raise ValueError(f'a .pkl file cannot be read as data ({error}): write it as .json') from error


def use_safe_reader() -> None:
    """Make every loader of mmengine read files by :func:`~randsac_mm.transfer.reading.read_checkpoint`."""
    schemes = [*_OTHERS, *(f'{name}://' for name in _TABLES)]
    theirs.CheckpointLoader.register_scheme(schemes, loader=load_from_plain, force=True)
    register_handler(['pkl', 'pickle'])(_PlainPickleHandler)


def load_from_plain(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a checkpoint for mmengine, which would execute the texts of configs in it.

    They are left out, but for ``meta['cfg']``, which becomes ``meta['config_text']``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely.
    """
    scheme, _, name = str(filename).partition('://')
    address = filename
    if scheme in _TABLES:
        address = _TABLES[scheme]().get(theirs.get_deprecated_model_names().get(name, name))
        if address is None:
            raise ValueError(f'{filename}: {scheme} has no model of this name')
    read = read_checkpoint(address)
    try:
        checkpoint = from_plain(read)
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'{filename} is damaged: an array, HistoryBuffer or Counter in it is none') from error
    if scheme == 'mmcls':
        state = find_state(checkpoint, filename)
        checkpoint = {'state_dict': OrderedDict((key.removeprefix('backbone.'), state[key]) for key in state)}
    hub, meta = checkpoint.get('message_hub'), checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    for part in (meta, hub.get('runtime_info') if isinstance(hub, dict) else None):
        for key in ('config', 'cfg') if isinstance(part, dict) else ():
            part.pop(key, None)
    if text is not None:
        meta['config_text'] = text
    return _move(checkpoint, map_location) if isinstance(map_location, str | torch.device) else checkpoint


def check_folder(path: str | Path) -> None:
    """Refuse the folder of a DeepSpeed checkpoint, which that library unpickles, if any file has more than data."""
    for file in sorted(Path(path).rglob('*.pt')):
        read_checkpoint(file, meta_only=True)


def _move(value: Any, device: str | torch.device) -> Any:
    """Move all tensors in a nested value, in place where that can be, so that each is in memory once."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_move(item, device) for item in value)
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        value[key] = _move(value[key], device)
    return value
