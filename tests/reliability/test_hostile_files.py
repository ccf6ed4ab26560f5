"""Contract: no file of a stranger runs code, on any road, and each is refused in one line, within a second and 200 MB.

Run: python -m pytest tests/reliability/test_hostile_files.py. Mutated files: tests/transfer/test_torch_file.py.
"""

import contextlib
import io
import pickle
import re
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.toy_engine import ToyModel, toy_config, train
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.runner import Runner, load_checkpoint
from safetensors.torch import save
from transfer.three_models import make

from randsac_mm.engine.safe_loading import use_safe_reader
from randsac_mm.export import read_encoder
from randsac_mm.transfer import load_backbone, load_model
from randsac_mm.transfer.reading import read_checkpoint

MARKER = Path('code_ran')  # in the folder of the test


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('script.py').write_text(f'import pathlib\npathlib.Path("{MARKER}").touch()')
    use_safe_reader()


# Parts of pickles.
def text(value):
    return b'X' + struct.pack('<I', len(value)) + value.encode()


def name(function):
    return b'c' + function.replace(' ', '\n').encode() + b'\n'


def call(function, *args):
    return (name(function) if isinstance(function, str) else function) + b'(' + b''.join(args) + b'tR'


def attribute(owner, what):
    return call('builtins getattr', owner, text(what))


def storage(numel, key='0', kind='torch FloatStorage', more=b''):
    number = b'\x8a\x08' + struct.pack('<q', numel)
    return b'(' + text('storage') + name(kind) + text(key) + text('cpu') + number + more + b'tQ'


def tensor(store, size=3, stride=1, offset=0):
    numbers = [b'\x8a\x08' + struct.pack('<q', value) for value in (offset, size, stride)]
    rest = b'\x89' + call('collections OrderedDict')
    return call('torch._utils _rebuild_tensor_v2', store, numbers[0], numbers[1] + b'\x85', numbers[2] + b'\x85', rest)


SHELL, PYTHON = text(f'touch {MARKER}'), text(f'__import__("pathlib").Path("{MARKER}").touch()')
HISTORY = name('mmengine.logging.history_buffer HistoryBuffer')
BUILTINS = call(attribute(attribute(attribute(HISTORY, '__init__'), '__globals__'), 'get'), text('__builtins__'))
SYSTEM = call('posix system', SHELL)
CODE = {  # these run code if Python unpickles them
    'system': SYSTEM,
    'eval': call('builtins eval', PYTHON),
    'exec': call('__builtin__ exec', PYTHON),
    'subprocess': call('subprocess getoutput', SHELL),
    'runpy': call('runpy run_path', text('script.py')),
    'map': call('builtins list', call('builtins map', name('posix system'), b'(' + SHELL + b't')),
    'import': call(attribute(call('builtins __import__', text('os')), 'system'), SHELL),
    'mmengine and getattr': call(call(attribute(BUILTINS, 'get'), text('exec')), PYTHON),
    'stack_global': b'\x8c\x05posix\x8c\x06system\x93(' + SHELL + b'tR',
    'memo': name('posix system') + b'q\x00h\x00(' + SHELL + b'tR',
    'inst': b'(' + SHELL + b'iposix\nsystem\n',
    'obj': b'(' + name('posix system') + SHELL + b'o',
    'key': b'}' + SYSTEM + b'K\x01s',
    'state of a Namespace': name('argparse Namespace') + b')\x81}' + text('a') + SYSTEM + b'sb',
    'state of a HistoryBuffer': HISTORY + b')\x81}' + text('max_length') + SYSTEM + b'sb',
    'beside a method': b'(' + attribute(HISTORY, 'mean') + SYSTEM + b't',
}
DOUBLED = b''.join(b'h%c\x86q%c' % (i, i + 1) for i in range(60))  # each time a tuple of twice the last
REFUSED = {  # these do other harm or are no checkpoint; Python would read some of them
    'a method of HistoryBuffer called': call(attribute(HISTORY, 'mean'), HISTORY + b')\x81'),
    'a private attribute': attribute(HISTORY, '__init__'),
    'an attribute of something else': attribute(call('collections OrderedDict'), 'update'),
    'newobj_ex': name('argparse Namespace') + b')}\x92',
    'extension': b'\x82\x01',
    'persistent id of protocol 0': b'Pposix.system\n',
    'persistent id of a call': SYSTEM + b'Q',
    'a module': pickle.dumps(torch.nn.Linear(1, 1), 2)[2:-1],
    'a class as value': name('torch.nn.modules.linear Linear'),
    'a known name as value': name('builtins getattr'),
    'an array of objects': pickle.dumps(np.array([None, {}], dtype=object), 2)[2:-1],
    'big-endian numbers': pickle.dumps(np.zeros(2, '>i4'), 2)[2:-1],
    'a codec': call('_codecs encode', text('x'), text('rot13')),
    'memory': call('builtins bytearray', b'\x8a\x08' + struct.pack('<q', 2**40)),
    'strange _metadata': call('collections OrderedDict') + b'}' + text('_metadata') + b'K\x01sb',
    'deep': b']' * 200_000 + b'a' * 199_999,
    'in itself': b']q\x00h\x00a',
    'laughs': b']q\x00' + DOUBLED,
    'laughs as keys': b'})q\x00' + DOUBLED + b'K\x01s',
    'many values': b'](' + b'K\x01' * 600_000 + b'e',
    'storage as value': storage(3),
    'storage larger than its record': tensor(storage(4)),
    'storage of terabytes': tensor(storage(2**40)),
    'negative storage': tensor(storage(-1)),
    'unknown record': tensor(storage(3, 'no')),
    'unknown kind': tensor(storage(3, kind='torch QInt8Storage')),
    'tensor beyond its storage': tensor(storage(3), size=4),
    'far offset': tensor(storage(3), offset=2**62),
    'negative stride': tensor(storage(3), stride=-1),
    'stride 0': tensor(storage(3), size=2**40, stride=0),
}


def zipped(data, records=None, compress=zipfile.ZIP_STORED, prefix='a/'):
    """An archive as torch's, of a pickle without first and last opcode, and a storage of 12 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compress) as archive:
        contents = {'data.pkl': b'\x80\x02' + data + b'.', 'version': b'3\n', 'data/0': bytes(12), **(records or {})}
        for file, content in contents.items():
            archive.writestr(prefix + file, content)
    return buffer.getvalue()


def legacy(data, keys=b']', storages=b''):
    start = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}))
    return b''.join(start) + b'\x80\x02' + data + b'.\x80\x02' + keys + b'.' + storages


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        info = tarfile.TarInfo('pickle')
        info.size = len(SYSTEM)
        archive.addfile(info, io.BytesIO(SYSTEM))
    return buffer.getvalue()


def million_records():
    """An archive whose directory has 10^6 entries of one record."""
    whole = zipped(b'}')
    start = whole.index(b'PK\x01\x02')
    entry = whole[start : whole.index(b'PK\x01\x02', start + 1)]
    end = struct.pack('<IHHHHIIH', 0x06054B50, 0, 0, 65535, 65535, 10**6 * len(entry), start, 0)
    return whole[:start] + entry * 10**6 + end


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


HARMLESS = zipped(b'}' + text('state_dict') + b'}' + text('w') + tensor(storage(3)) + b'ss')
WEIGHTS = save({'w': torch.ones(3)})
FILES = {
    **{f'{key}.pth': zipped(code) for key, code in {**CODE, **REFUSED}.items()},
    **{f'old {key}.pth': legacy(code) for key, code in CODE.items()},
    'old lying.pth': legacy(tensor(storage(2**40))),
    'old missing storage.pth': legacy(tensor(storage(3))),
    'old short storage.pth': legacy(tensor(storage(3)), b']' + text('0') + b'a', struct.pack('<q', 3) + bytes(8)),
    'old other storage.pth': legacy(tensor(storage(3)), b']' + text('0') + b'a', struct.pack('<q', 5) + bytes(20)),
    'old header.pth': b'\x80\x02' + SYSTEM + b'.',
    'old text.pth': b'\x80\x02X\xff\xff\xff\x7f',
    'nested.pth': zipped(b'', {'data.pkl': HARMLESS}),
    'twice.pth': zipped(b'}', {'b/data.pkl': b'\x80\x02' + SYSTEM + b'.'}),
    'program.pth': zipped(b'}', {'constants.pkl': b'', 'code/__torch__.py': b''}),
    'bomb.pth': zipped(b'}', {'data/1': bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
    'million records.pth': million_records(),
    'big-endian.pth': zipped(b'}', {'byteorder': b'big'}),
    'truncated.pth': HARMLESS[:-30],
    'flipped.pth': flipped(HARMLESS, HARMLESS.index(bytes(12))),
    'empty.pth': b'',
    'zeros.pth': bytes(1000),
    'tar.pth': tarred(),
    'page.pth': b'<html>',
    'list.pth': zipped(b']'),
    'lying header.safetensors': struct.pack('<Q', 2**60) + WEIGHTS[8:],
    'large header.safetensors': struct.pack('<Q', 90_000_000) + WEIGHTS[8:],
    'lying size.safetensors': WEIGHTS.replace(b'[3]', b'[9]'),
    'truncated.safetensors': WEIGHTS[:-1],
    'pickle.safetensors': zipped(SYSTEM),
}
PARAMETERS = [pytest.param(content, key, id=key) for key, content in FILES.items()]


@pytest.mark.parametrize('key', CODE)
def test_control_python_runs_the_code_and_the_marker_shows_it(key):
    with contextlib.suppress(TypeError, AttributeError, ValueError):  # after the call, by its result
        pickle.loads(b'\x80\x02' + CODE[key] + b'.')
    assert MARKER.exists()


def test_control_the_harmless_file_is_read():
    Path('a.pth').write_bytes(HARMLESS)
    assert torch.equal(read_checkpoint('a.pth')['state_dict']['w'], torch.zeros(3))


def peak():
    """Greatest memory in bytes since the last call."""
    kilobytes = int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1])
    Path('/proc/self/clear_refs').write_text('5')
    return kilobytes * 1024


@pytest.mark.parametrize(('content', 'key'), PARAMETERS)
def test_a_hostile_file_is_refused_in_a_line_a_second_and_200_mb(content, key):
    Path(key).write_bytes(content)
    peak()
    before, start = peak(), time.process_time()
    with pytest.raises(ValueError, match=re.escape(key)) as caught:
        read_checkpoint(key)
    assert time.process_time() - start < 1
    assert peak() - before < 200e6
    assert len(str(caught.value).splitlines()) <= 2
    assert not MARKER.exists()


def resume(path):
    train('work', epochs=1, resume=path)


def start_from(path):
    config = toy_config('work', epochs=1)
    Runner(**{**config, 'load_from': str(path)}).train()


def pretrained(prefix):
    return lambda path: PretrainedInit(str(path), prefix=prefix)(ToyModel())


ROADS = {
    'load_checkpoint': lambda path: load_checkpoint(ToyModel(), str(path)),
    'resume': resume,
    'load_from': start_from,
    'Pretrained': pretrained(None),
    'Pretrained neck': pretrained('neck.'),
    'load_backbone': lambda path: load_backbone(make(), path),
    'load_model': lambda path: load_model(ToyModel(), path),
    'export': read_encoder,
}


@pytest.mark.slow
@pytest.mark.parametrize('road', ROADS)
def test_every_road_refuses_every_file(road):
    for key, content in FILES.items():
        Path(key).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(key)):
            ROADS[road](Path(key).absolute())
        assert not MARKER.exists(), key


def test_texts_in_a_checkpoint_are_not_executed():
    """mmengine executes ``meta['config']`` when it resumes, and the other two when an inferencer has no config."""
    train('work', epochs=2, stop=5)
    content = torch.load('work/epoch_1.pth', weights_only=True)
    code = f'import pathlib\npathlib.Path("{MARKER}").touch()\nmodel = dict()'
    content['meta'].update(config=code, cfg=code)
    content['message_hub']['runtime_info']['cfg'] = code
    torch.save(content, 'a.pth')
    assert train('work', epochs=2, resume='a.pth').iter == 8
    loaded = load_checkpoint(ToyModel(), 'a.pth')
    assert not {'config', 'cfg'} & {*loaded['meta'], *loaded['message_hub']['runtime_info']}
    assert not MARKER.exists()


TOOLS = [
    'train.py toy.py --resume a.pth',
    'train.py toy.py --work-dir w --resume auto',
    'train.py toy.py --cfg-options load_from=a.pth',
    'test.py toy.py a.pth',
    'evaluate.py configs/randsac/vit_digits.py a.pth',
    'export_backbone.py a.pth --to mm',
    'predict.py configs/smoke/upernet_vit_shapes.py a.pth x.png --out out',
    'visualization/reconstruct.py configs/randsac/vit_digits.py a.pth --out x.png',
]


@pytest.mark.parametrize('command', TOOLS)
def test_tools_end_with_a_line(command, root, run_tool):
    config = toy_config('work', epochs=1)
    config.update(test_dataloader=config['train_dataloader'], test_cfg={}, test_evaluator={'type': 'ToyScores'})
    Config(config).dump('toy.py')
    Path('w').mkdir()
    for path in ('a.pth', 'w/epoch_1.pth'):
        Path(path).write_bytes(FILES['system.pth'])
    tool, *args = command.replace('configs/', f'{root}/configs/').split()
    with pytest.raises(SystemExit, match=r'(a|epoch_1)\.pth .*posix\.system') as caught:
        run_tool(tool, *args)
    assert len(str(caught.value).splitlines()) <= 2
    assert not MARKER.exists()
