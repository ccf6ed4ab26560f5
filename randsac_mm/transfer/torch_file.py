"""Files of ``torch.save`` read as data: zip archives, whose checksums are compared, and the format before torch 1.6."""

import io
import math
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .plain_pickle import NotPlainError, read_pickle

_MAX_PICKLE = 128 * 2**20  # bytes, without the tensors
_MAX_READ = 4 * 2**20  # bytes of an archive's directory, or of a text in the old format
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_NAMES = ['Double', 'Float', 'Half', 'BFloat16', 'ComplexDouble', 'ComplexFloat']
_NAMES += ['Long', 'Int', 'Short', 'Char', 'Byte', 'Bool']
_TYPES = {f'torch.{cuda}{n}Storage': getattr(torch, f'{n}Storage')._dtype for n in _NAMES for cuda in ('', 'cuda.')}
_TYPES['torch.storage.UntypedStorage'] = torch.uint8
_PARAMETERS = ('torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state')


class _Storage(NamedTuple):
    """Memory of tensors, which is filled after the whole pickle has been read."""

    data: torch.UntypedStorage
    dtype: torch.dtype


class _Bounded(io.BufferedReader):
    """File that takes no memory for what a header calls very large."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ:
            raise NotPlainError(f'a directory or text of {size:,} bytes')
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(_MAX_READ)


class TorchFile:
    """Reader of one file of ``torch.save``; takes no more memory than its size.

    Args:
        path: The file.
        meta_only: Whether to leave out the numbers of tensors, which are on the meta device then.
    """

    def __init__(self, path: Path, meta_only: bool = False) -> None:
        self.path, self.free, self.device = path, os.path.getsize(path), 'meta' if meta_only else 'cpu'
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.records: dict[str, int] | None = None  # sizes of storages in an archive

    def read(self) -> Any:
        """Return the contents; raise NotPlainError, or if the file is damaged anything."""
        with _Bounded(io.FileIO(self.path)) as file:
            if file.peek(4)[:4] != b'PK\x03\x04':
                return self._read_legacy(file)
            with zipfile.ZipFile(file) as archive:
                return self._read_zip(archive)

    def _read_zip(self, archive: zipfile.ZipFile) -> Any:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name[:-8] for name in entries if name.endswith('data.pkl')]
        if any(name.endswith('/constants.pkl') or '/code/' in name for name in entries):
            raise NotPlainError('a program (TorchScript)')
        packed = any(e.compress_type or e.flag_bits & 1 or e.compress_size != e.file_size for e in entries.values())
        if packed or len(roots) != 1 or len(entries) != len(archive.infolist()):
            raise NotPlainError('compressed, encrypted or repeated records, or not one data.pkl')
        if entries[f'{roots[0]}data.pkl'].file_size > _MAX_PICKLE:
            raise NotPlainError(f'a pickle of more than {_MAX_PICKLE:,} bytes')
        if f'{roots[0]}byteorder' in entries and archive.read(f'{roots[0]}byteorder') != b'little':
            raise NotPlainError('numbers of another byte order')
        self.records = {name.removeprefix(f'{roots[0]}data/'): entry.file_size for name, entry in entries.items()}
        pickle = io.BytesIO()
        with archive.open(f'{roots[0]}data.pkl') as record:
            shutil.copyfileobj(record, pickle)
        pickle.seek(0)
        content = self._read_pickle(pickle)
        for key, storage in self.storages.items() if self.device == 'cpu' else ():
            with archive.open(f'{roots[0]}data/{key}') as record:
                _fill(storage, record)
        return content

    def _read_legacy(self, file: io.BufferedReader) -> Any:
        if (read_pickle(file), read_pickle(file)) != (_MAGIC, _PROTOCOL):
            raise ValueError('no file of torch.save')
        if read_pickle(file)['little_endian'] is not True:
            raise NotPlainError('numbers of another byte order')
        content = self._read_pickle(file)
        if self.device == 'cpu':
            for key in read_pickle(file):
                (numel,) = struct.unpack('<q', file.read(8))
                if numel * max(1, self.storages[key].nbytes() // max(numel, 1)) != self.storages[key].nbytes():
                    raise ValueError(f'storage {key} has another size')
                _fill(self.storages.pop(key), file)
            if self.storages:
                raise ValueError('storages are missing')
        return content

    def _read_pickle(self, file: Any) -> Any:
        tensors = {f'torch._utils._rebuild_tensor{version}': self._tensor for version in ('', '_v2', '_v3')}
        parameters = dict.fromkeys((*_PARAMETERS, 'torch.nn.parameter.Parameter'), lambda tensor, *_: tensor)
        return read_pickle(file, {**tensors, **parameters, **_TYPES}, self._storage)

    def _storage(self, what: str, kind: str, key: str, location: str, numel: int, view: None = None) -> _Storage:
        if what != 'storage' or view is not None or type(key) is not str or type(numel) is not int or numel < 0:
            raise NotPlainError('a persistent id that is no storage')
        nbytes = numel * torch._utils._element_size(_TYPES[kind])
        if key not in self.storages:
            self.free -= nbytes
            if self.free < 0:
                raise ValueError(f'a storage of {nbytes:,} bytes, more than the file has')
            self.storages[key] = torch.UntypedStorage(nbytes, device=self.device)
        if nbytes != self.storages[key].nbytes() or (self.records is not None and nbytes != self.records[key]):
            raise ValueError(f'storage {key} has another size')
        return _Storage(self.storages[key], _TYPES[kind])

    def _tensor(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> Tensor:
        """Build a tensor; ``rest``: requires_grad, hooks, in version 3 the dtype, and bits such as of the conjugate."""
        dtype = next((value for value in rest[2:] if isinstance(value, torch.dtype)), storage.dtype)
        if any(value for value in rest[2:] if value is not dtype):
            raise NotPlainError('a conjugate or negative view')
        if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)) or len(size) > 32:
            raise ValueError('a tensor of impossible shape')
        available = storage.data.nbytes() // torch._utils._element_size(dtype)
        end = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
        if math.prod(size) and max(math.prod(size), end) > available:
            raise ValueError(f'a tensor of shape {size}, of which there are {available:,} numbers')
        return torch.empty(0, dtype=dtype, device=self.device).set_(storage.data, offset, size, stride)


def _fill(storage: torch.UntypedStorage, stream: Any) -> None:
    """Read the bytes of a storage; zipfile compares the checksum of a record at its end."""
    view = memoryview(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())  # type: ignore[arg-type]
    while view:
        count = stream.readinto(view[: 2**20])
        if not count:
            raise ValueError('the file ends within a tensor')
        view = view[count:]
