"""What is made plain loads with weights_only=True and comes back as it was."""

import io
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from randsac_mm.engine.plain import MARK, from_plain, to_plain

SAME = [
    *(None, True, 3.5, 2 + 1j, b'bytes', 'text', torch.float16, torch.device('cpu'), torch.Size([2, 3])),
    *((1, [2, {3}], {'four': 5}), Counter({30: 1, 60: 2}), {7: {'nested': (True, None)}}),
]
REPLACED = [
    *((np.float64(0.25), 0.25), (np.int32(3), 3), (np.bool_(True), True)),
    *((Path('a/b'), 'a/b'), (ConfigDict(a={'b': 1}), {'a': {'b': 1}})),
]


def through_a_file(value):
    buffer = io.BytesIO()
    torch.save(to_plain(value, '', []), buffer)
    buffer.seek(0)
    return from_plain(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize(('value', 'expected'), [*((value, value) for value in SAME), *REPLACED], ids=str)
def test_values_come_back_equal_or_as_their_plain_counterpart(value, expected):
    result = through_a_file(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize('dtype', ['bool', 'uint8', 'int64', 'float16', 'float64', 'complex64', 'U3'])
def test_arrays_come_back_equal(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    np.testing.assert_array_equal(through_a_file({'array': array})['array'], array)


def test_history_buffer_comes_back():
    buffer = HistoryBuffer([1.5, 2.0], [1, 3], max_length=7)
    result = through_a_file({'loss': buffer})['loss']
    assert isinstance(result, HistoryBuffer)
    assert (result.mean(), result.max_length) == (buffer.mean(), 7)
    assert [a.dtype for a in result.data] == [a.dtype for a in buffer.data]


def test_state_dict_keeps_tensors_and_metadata():
    state = torch.nn.BatchNorm1d(3).state_dict()
    result = to_plain(state, '', [])
    assert isinstance(result, OrderedDict)
    assert result._metadata == state._metadata
    assert all(result[key] is state[key] for key in state)


def test_what_has_no_plain_form_is_named():
    dropped = []
    assert to_plain({'a': {'keep': 1, 'lock': object()}, 'b': [1, object()]}, 'meta', dropped) == {
        'a': {'keep': 1, 'lock': None},
        'b': [1, None],
    }
    assert dropped == ['meta.a.lock', 'meta.b[1]']


def test_unknown_mark_is_an_error():
    with pytest.raises(ValueError, match='future'):
        from_plain({MARK: 'future'})
