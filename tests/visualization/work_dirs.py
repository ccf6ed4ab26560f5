"""Work directories as mmengine writes them."""

import json

HEAD = """2026/11/21 07:30:10 - mmengine - INFO -
System environment:
    sys.platform: linux
    Python: 3.11.7 (main)
    GPU 0,1: NVIDIA H200
    PyTorch: 2.11.0
Runtime environment:
    seed: 7
2026/11/21 07:30:11 - mmengine - INFO - Config:
    Python: not this
"""


def write_session(work_dir, name, entries, resumed=None, origin=None):
    folder = work_dir / name
    (folder / 'vis_data').mkdir(parents=True)
    lines = [json.dumps(entry) if isinstance(entry, dict) else entry for entry in entries]
    (folder / 'vis_data' / 'scalars.json').write_text('\n'.join(lines) + '\n')
    (folder / 'vis_data' / 'config.py').write_text(f'name = {name!r}\n')
    end = '' if resumed is None else f'2026/11/21 - mmengine - INFO - resumed epoch: 3, iter: {resumed}\n'
    (folder / f'{name}.log').write_text(HEAD + end)
    if origin is not None:
        (folder / 'origin.json').write_text(origin)


def losses(*pairs):
    return [{'loss': value, 'lr': 0.1, 'epoch': 1, 'iter': step, 'step': step} for step, value in pairs]
