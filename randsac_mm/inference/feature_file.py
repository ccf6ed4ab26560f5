"""Files of features: names and rows; what is written need not fit in memory."""

import json
import os
from pathlib import Path
from shutil import copymode

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

FORMATS = ('.npz', '.parquet', '.safetensors')


def check_format(path: Path) -> None:
    """Raise ValueError for another format than ``FORMATS``, ImportError if a package is missing."""
    if path.suffix not in FORMATS:
        raise ValueError(f'{path}: features are written to files that end in {", ".join(FORMATS)}')
    if path.suffix == '.parquet':
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ImportError(f'{path} needs pyarrow ({error}): pip install pyarrow, or write to .npz') from error


def write_features(path: Path, names: list[str], rows: Path, dims: int) -> None:
    """Write ``names`` (N) and ``features`` (N, D) to a file of one of ``FORMATS``.

    ``rows`` is a file of the features, float32, little-endian. In safetensors, which has no texts, ``names`` are the
    bytes of a JSON list.
    """
    features = np.memmap(rows, '<f4', 'r', shape=(len(names), dims))
    if path.suffix == '.npz':
        np.savez(path, features=features, names=np.array(names))  # part by part
    elif path.suffix == '.parquet':
        import pyarrow.parquet

        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.ravel()), dims)
        table = pyarrow.table({'names': names, 'features': column})
        pyarrow.parquet.write_table(table, path, row_group_size=10_000, use_dictionary=False)
    else:
        save_file({'features': features, 'names': np.frombuffer(json.dumps(names).encode(), np.uint8)}, path)
        copymode(rows, path)  # safetensors' files are private
    with path.open('rb+') as file:
        os.fsync(file.fileno())  # before it gets its name


def read_features(path: Path) -> tuple[list[str], Tensor]:
    """Read names (N) and features (N, D); those in safetensors are read from the disk when they are used."""
    if path.suffix == '.npz':
        with np.load(path) as archive:
            return archive['names'].tolist(), torch.from_numpy(archive['features'])
    if path.suffix == '.parquet':
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        features = table['features'].combine_chunks().flatten().to_numpy().copy()
        return table['names'].to_pylist(), torch.from_numpy(features).view(len(table), -1)
    with safe_open(path, 'pt') as file:
        return json.loads(file.get_tensor('names').numpy().tobytes()), file.get_tensor('features')
