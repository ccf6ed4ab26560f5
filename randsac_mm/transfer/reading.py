"""Reading of checkpoints from files and web addresses; nothing in them is run."""

import hashlib
import urllib.error
import urllib.parse
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from .plain_pickle import NotPlainError
from .torch_file import TorchFile

CHECKSUM = 'randsac_mm_crc32'  # in the metadata of a safetensors file

# Where a checkpoint keeps the state dict, best first; a flat state dict is accepted as well.
_STATE_KEYS = ('state_dict', 'model', 'module', 'ema_state_dict', 'state_dict_ema', 'model_ema')


def read_checkpoint(path: str | Path, meta_only: bool = False) -> dict[str, Any]:
    """Read a checkpoint as data: tensors, numbers, texts, arrays, and lists and dictionaries of them.

    Nothing in the file is run or imported; its checksums are verified. What mmengine and authors store beside weights
    is made plain: ``HistoryBuffer`` as in :mod:`randsac_mm.engine.plain`, ``Namespace`` as dict, paths as text.

    Args:
        path: A file (``.safetensors`` or of ``torch.save``) or an http(s) address, which is downloaded once to the
            ``checkpoints`` folder of ``torch.hub.get_dir()``.
        meta_only: Whether to leave out the numbers of tensors, which takes milliseconds; they are on the meta device.

    Returns:
        The entries of the file; tensors are on the CPU.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded.
        ValueError: If the path is a folder or an unknown kind of address, or the file is truncated, damaged, no
            checkpoint, or has objects that are no plain values.
    """
    local = _locate(path)
    local.open('rb').close()  # a file that may not be read fails here, with the system's own error
    try:
        safetensors = local.suffix == '.safetensors'
        checkpoint = _read_safetensors(local, meta_only) if safetensors else TorchFile(local, meta_only).read()
    except NotPlainError as error:
        raise ValueError(
            f'{path} cannot be read safely: beside tensors and plain values it has {error}. If you trust its source, '
            f'convert it: python tools/convert_checkpoint.py {path}'
        ) from error
    except Exception as error:  # damaged bytes raise anything, OSError among them
        reason = (str(error).splitlines() or [''])[0][:200] or type(error).__name__
        raise ValueError(
            f'{path} is truncated, damaged or no checkpoint ({reason}); it has {local.stat().st_size:,} bytes. '
            'Copy it again'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path} is a {type(checkpoint).__name__}, not a state dict')
    return checkpoint


def _read_safetensors(path: Path, meta_only: bool) -> dict[str, Tensor]:
    with safe_open(path, 'pt') as file:
        expected = (file.metadata() or {}).get(CHECKSUM)
        if meta_only:
            sizes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            return {key: torch.empty(size, device='meta') for key, size in sizes.items()}
    tensors = load_file(path)
    if expected not in (None, checksum(tensors)):
        raise ValueError('wrong checksum')
    return tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Compute the CRC-32 of names, types, shapes and bytes of tensors."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode(), crc)
        crc = zlib.crc32(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f'{crc:08x}'


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
