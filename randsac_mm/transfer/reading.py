"""Reading of checkpoints from files and web addresses without running any code in them."""

import contextlib
import hashlib
import re
import urllib.error
import urllib.parse
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# Where a checkpoint keeps the state dict, best first; a flat state dict is accepted as well.
_STATE_KEYS = ('state_dict', 'model', 'module', 'ema_state_dict', 'state_dict_ema', 'model_ema')


class _Placeholder(dict):
    """Empty stand-in for an object of the file that is no tensor and no plain value."""

    def __new__(cls, *args: Any) -> '_Placeholder':
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key of a dictionary


# What mmengine and its relatives store beside the weights: logs, scores, settings. Under these names torch.load finds a
# placeholder, never the real object (some, as getattr, are not harmless).
_STAND_INS = [
    type(name, (_Placeholder,), {'__module__': module, '__qualname__': name})
    for module, names in (
        ('mmengine.logging.history_buffer', ['HistoryBuffer']),
        ('mmengine.config.config', ['ConfigDict']),
        ('argparse', ['Namespace']),
        ('builtins', ['getattr']),
        ('collections', ['defaultdict']),
        ('pathlib', ['PosixPath', 'WindowsPath']),
        ('numpy', ['dtype', 'ndarray']),
        ('numpy.core.multiarray', ['_reconstruct', 'scalar']),
        ('numpy._core.multiarray', ['_reconstruct', 'scalar']),
    )
    for name in names
]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running any code of it.

    Files of ``torch.save`` are read with ``weights_only=True``; objects that mmengine's ``CheckpointHook`` stores
    beside the weights become empty placeholders.

    Args:
        path: A file (``.safetensors`` or of ``torch.save``) or an http(s) address, which is downloaded once to the
            ``checkpoints`` folder of ``torch.hub.get_dir()``.

    Returns:
        The entries of the file; tensors are on the CPU.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded.
        ValueError: If the path is a folder or an unknown kind of address, or the file is truncated, damaged, no
            checkpoint, or holds objects that are no plain values.
    """
    local = _locate(path)
    if local.suffix == '.safetensors':
        try:
            return load_file(local)
        except SafetensorError as error:
            size = f'{local.stat().st_size:,} bytes'
            raise ValueError(f'{local} is truncated or no safetensors file ({error}); it has {size}') from error
    local.open('rb').close()  # a file that may not be read fails here, with the system's own error
    try:
        if zipfile.is_zipfile(local):
            with zipfile.ZipFile(local) as archive:
                wrong = archive.testzip()  # compares checksums, which torch.load does not
            if wrong is not None:
                raise RuntimeError(f'wrong checksum of {wrong}')
        # Before torch 2.5 there are no safe globals; what is not plain is refused there.
        allow = getattr(torch.serialization, 'safe_globals', contextlib.nullcontext)
        with allow(_STAND_INS):
            checkpoint = torch.load(local, map_location='cpu', weights_only=True)
    except Exception as error:  # damaged bytes raise anything, OSError among them
        raise ValueError(f'{path} is no checkpoint that can be read safely: {_explain(local, error)}') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path} is a {type(checkpoint).__name__}, not a state dict')
    return checkpoint


def find_state(checkpoint: dict[str, Any], path: str | Path) -> OrderedDict[str, Tensor]:
    """Return the state dict of a checkpoint; in files of mmengine's ``EMAHook`` it holds the averaged weights.

    Returns:
        All tensors of the state dict by name, without entries that are no tensors, and its metadata.

    Raises:
        ValueError: If there is no tensor; it names the file ``path``.
    """
    inner = [checkpoint[key] for key in _STATE_KEYS if isinstance(checkpoint.get(key), dict)]
    for candidate in (*inner, checkpoint):
        tensors = OrderedDict((str(key), value) for key, value in candidate.items() if isinstance(value, Tensor))
        if tensors:
            vars(tensors)['_metadata'] = getattr(candidate, '_metadata', None)  # versions of modules
            return tensors
    raise ValueError(
        f'{path} has no tensors at the top or under {_STATE_KEYS}; its entries are {sorted(map(str, checkpoint))}'
    )


def _locate(path: str | Path) -> Path:
    """Return the local file of a path or an address."""
    if str(path).startswith(('http://', 'https://')):
        return _download(str(path))
    if '://' in str(path):
        raise ValueError(f'{path}: only files and http(s) addresses can be read. Download it and use the local path')
    local = Path(path).expanduser()
    if local.is_dir():
        inside = sorted(file.name for pattern in ('*.pth', '*.pt', '*.safetensors') for file in local.glob(pattern))
        raise ValueError(f'{path} is a folder; name a checkpoint in it: {", ".join(inside) or "there is none"}')
    if not local.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}; relative paths start at {Path.cwd()}')
    return local


def _download(url: str) -> Path:
    """Download once, on the first rank; other machines than its own download for themselves."""
    name = Path(urllib.parse.urlparse(url).path).name or 'checkpoint'
    # Many files on the web are called epoch_100.pth.
    folder = Path(torch.hub.get_dir(), 'checkpoints', hashlib.sha256(url.encode()).hexdigest()[:12])
    target = folder / name

    def fetch() -> None:
        if target.is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        print_log(f'download {url} to {target}', logger='current')
        try:
            torch.hub.download_url_to_file(url, str(target), progress=False)
        except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError) as error:
            raise FileNotFoundError(f'{url} cannot be downloaded ({error}); use a local path') from error

    try:
        if get_rank() == 0:
            fetch()
    finally:
        barrier()  # also after an error: the other ranks wait here
    fetch()
    return target


def _explain(local: Path, error: Exception) -> str:
    """Return what is wrong with a file that torch.load refuses, and the fix."""
    refused = re.search(r'GLOBAL ([\w.]+)', str(error))
    if refused:
        return (
            f'beside tensors and plain values it has {refused[1]}. Where it was written, save '
            "torch.save({'state_dict': model.state_dict()}, ...), or train with ResumableCheckpointHook"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f'truncated, damaged or no checkpoint ({reason}); it has {local.stat().st_size:,} bytes. Copy it again'
