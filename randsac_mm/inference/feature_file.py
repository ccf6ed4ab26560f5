"""Files of features: names and rows, written and read without all rows in memory."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from shutil import copyfileobj
from typing import Any
from zipfile import ZipFile

import numpy as np
from safetensors import safe_open

FORMATS = ('.npz', '.parquet', '.safetensors')
_CHUNK = 10_000  # rows or names in a step


def check_format(path: Path) -> None:
    """Raise ValueError for another format than ``FORMATS``, ImportError if a package is missing."""
    if path.suffix not in FORMATS:
        raise ValueError(f'{path}: features are written to files that end in {", ".join(FORMATS)}')
    if path.suffix == '.parquet':
        _arrow()


def write_features(path: Path, names: Sequence[str], rows: Path, dims: int, about: Mapping[str, str]) -> None:
    """Write ``names`` (N) and ``features`` (N, D) to a file of one of ``FORMATS``.

    In safetensors, which has no texts, ``names`` are the bytes of a JSON list.

    Args:
        path: The file.
        names: A name for each row.
        rows: File of the features, float32, little-endian.
        dims: Dimensions D.
        about: What else the file states, where its format has a place for it.
    """
    if path.suffix == '.parquet':
        _write_parquet(path, names, rows, dims, about)
        return
    with rows.open('rb') as source:
        if path.suffix == '.npz':
            with ZipFile(path, 'w') as archive:
                with archive.open('features.npy', 'w', force_zip64=True) as file:
                    file.write(_npy_header('<f4', (len(names), dims)))
                    copyfileobj(source, file, 2**20)
                kind = f'<U{max(map(len, names))}'
                with archive.open('names.npy', 'w', force_zip64=True) as file:
                    file.write(_npy_header(kind, (len(names),)))
                    for i in range(0, len(names), _CHUNK):
                        file.write(np.array(names[i : i + _CHUNK], kind).tobytes())
            return
        text, end = json.dumps(list(names)).encode(), 4 * dims * len(names)
        header = {
            '__metadata__': dict(about),
            'features': {'dtype': 'F32', 'shape': [len(names), dims], 'data_offsets': [0, end]},
            'names': {'dtype': 'U8', 'shape': [len(text)], 'data_offsets': [end, end + len(text)]},
        }
        head = json.dumps(header).encode()
        head += b' ' * (-len(head) % 8)  # so that numbers are aligned
        with path.open('wb') as file:
            file.write(len(head).to_bytes(8, 'little') + head)
            copyfileobj(source, file, 2**20)
            file.write(text)


def read_names(path: Path) -> list[str]:
    """Read the names of a file of features."""
    if path.suffix == '.parquet':
        return _arrow().read_table(path, columns=['names'])['names'].to_pylist()
    if path.suffix == '.npz':
        with np.load(path) as archive:
            return archive['names'].tolist()
    with safe_open(path, 'np') as file:
        return json.loads(file.get_tensor('names').tobytes())


def read_rows(path: Path) -> Iterator[np.ndarray]:
    """Yield the features of a file in parts (n, D), float32."""
    if path.suffix == '.parquet':
        for batch in _arrow().ParquetFile(path).iter_batches(_CHUNK, columns=['features']):
            yield batch.column(0).flatten().to_numpy().reshape(len(batch), -1)
    elif path.suffix == '.npz':
        with ZipFile(path).open('features.npy') as file:
            np.lib.format.read_magic(file)
            (_, dims), _, _ = np.lib.format.read_array_header_1_0(file)
            while data := file.read(4 * dims * _CHUNK):
                yield np.frombuffer(data, '<f4').reshape(-1, dims)
    else:
        with safe_open(path, 'np') as file:
            features = file.get_slice('features')
            count = features.get_shape()[0]
            for i in range(0, count, _CHUNK):
                yield features[i : min(i + _CHUNK, count)]


def _npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {'descr': kind, 'fortran_order': False, 'shape': shape})
    return header.getvalue()


def _write_parquet(path: Path, names: Sequence[str], rows: Path, dims: int, about: Mapping[str, str]) -> None:
    parquet, arrow = _arrow(), importlib.import_module('pyarrow')
    columns = [('names', arrow.string()), ('features', arrow.list_(arrow.float32(), dims))]
    schema = arrow.schema(columns, metadata=dict(about))
    features = np.memmap(rows, '<f4', 'r', shape=(len(names), dims))
    with parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for i in range(0, len(names), _CHUNK):
            part = arrow.FixedSizeListArray.from_arrays(arrow.array(features[i : i + _CHUNK].ravel()), dims)
            writer.write_table(arrow.table([arrow.array(names[i : i + _CHUNK], arrow.string()), part], schema=schema))


def _arrow() -> Any:
    try:
        return importlib.import_module('pyarrow.parquet')
    except ImportError as error:
        raise ImportError(f"parquet files need pyarrow ({error}): pip install pyarrow, or write to '.npz'") from error
