"""Work directories as mmengine writes them."""

import json


def write_session(work_dir, name, entries, resumed=None, origin=None):
    folder = work_dir / name
    (folder / 'vis_data').mkdir(parents=True)
    lines = [json.dumps(entry) if isinstance(entry, dict) else entry for entry in entries]
    (folder / 'vis_data' / 'scalars.json').write_text(''.join(f'{line}\n' for line in lines))
    (folder / 'vis_data' / 'config.py').write_text(f'name = {name!r}\n')
    text = '' if resumed is None else f'2026/11/21 - mmengine - INFO - resumed epoch: 3, iter: {resumed}\n'
    (folder / f'{name}.log').write_text(f'2026/11/21 - mmengine - INFO - start\n{text}')
    if origin is not None:
        (folder / 'origin.json').write_text(origin)


def losses(*pairs):
    return [{'loss': value, 'lr': 0.1, 'epoch': 1, 'iter': step, 'step': step} for step, value in pairs]
