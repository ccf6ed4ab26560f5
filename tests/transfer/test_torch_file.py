"""Contract: torch's own files are read as torch reads them, and a damaged one is refused or read as plain values.

With 5,000 damaged files: RELIABILITY_RUNS=5000 python -m pytest tests/transfer/test_torch_file.py
"""

import os
import random
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from randsac_mm.transfer.plain_pickle import _LEAVES
from randsac_mm.transfer.reading import read_checkpoint

RUNS = int(os.environ.get('RELIABILITY_RUNS', 100))
BASE = torch.arange(24.0).reshape(4, 6)
DTYPES = (torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.complex64, torch.uint8, torch.int64)
TENSORS = {
    **{str(dtype): torch.tensor([0, 1, 1]).to(dtype) for dtype in DTYPES},
    'whole': BASE,
    'part': BASE[1:, 2:],
    'transposed': BASE.t(),
    'scalar': torch.tensor(3),
    'empty': BASE[:0],
    'parameter': torch.nn.Parameter(torch.ones(2)),
}
VALUES = [None, True, 2**70, 0.5, 1j, 'text', b'bytes', (1, [2]), {3}, torch.Size([4]), torch.half, torch.device('cpu')]


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('zipped', [True, False])
def test_values_are_those_that_torch_reads(tmp_path, zipped, protocol):
    path = tmp_path / 'a.pth'
    content = {'state': torch.nn.BatchNorm1d(2).state_dict(), 'tensors': TENSORS, 'values': VALUES}
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    read = read_checkpoint(path)
    # torch writes float8 in the old format but cannot read it.
    expected = torch.load(path, weights_only=protocol == 2) if zipped else content
    assert read['values'] == expected['values']
    assert list(map(type, read['values'])) == list(map(type, VALUES))
    assert read['state']._metadata == expected['state']._metadata
    for key, tensor in expected['tensors'].items():
        ours = read['tensors'][key]
        assert (ours.dtype, ours.stride(), ours.shape) == (tensor.dtype, tensor.stride(), tensor.shape)
        assert torch.equal(ours.cdouble(), tensor.cdouble()), key
    whole, part = (read['tensors'][key].untyped_storage().data_ptr() for key in ('whole', 'part'))
    assert whole == part
    small = read_checkpoint(path, meta_only=True)
    assert small['values'] == VALUES
    assert {tensor.device.type for tensor in small['tensors'].values()} == {'meta'}


def is_plain(value):
    if isinstance(value, dict):
        return all(map(is_plain, [*value, *value.values()]))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain, value))
    return type(value) in _LEAVES


def test_damaged_pickles_are_refused_or_plain_values(tmp_path):
    content = {'state': torch.nn.BatchNorm1d(2).state_dict(), 'loss': HistoryBuffer([0.5], [1]), 'array': np.arange(3)}
    torch.save({**content, 'values': VALUES}, tmp_path / 'whole.pth')
    with zipfile.ZipFile(tmp_path / 'whole.pth') as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    dice, outcomes = random.Random(0), []
    for _ in range(RUNS):
        data = bytearray(records['whole/data.pkl'])
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(2, len(data))
            data[at : at + dice.choice((0, 1, 1, 3))] = dice.choice((b'', dice.randbytes(1), data[at - 2 : at + 9]))
        with zipfile.ZipFile(tmp_path / 'damaged.pth', 'w') as archive:
            for name, record in {**records, 'whole/data.pkl': data}.items():
                archive.writestr(name, bytes(record))
        try:
            read = read_checkpoint(tmp_path / 'damaged.pth')
        except ValueError:
            outcomes.append(False)
        else:
            outcomes.append(True)
            assert is_plain(read)
    assert 0 < sum(outcomes) < RUNS
