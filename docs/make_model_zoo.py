"""Write ``model_zoo.md`` from the metafiles and the headers of the configs: ``python docs/make_model_zoo.py``."""

from pathlib import Path

from mmengine.fileio import load

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HEAD = """\
# Model zoo

Made by `python docs/make_model_zoo.py` from `model-index.yml` and the headers of the configs; a test compares them.
No weights are published.

* **Parameters** are those that are trained. Multiply-adds are of one image's forward pass, at 512 px (segmentation,
  with the auxiliary head) and 1024 px (detection, with 512 boxes and 128 masks); `tools/analysis/complexity.py
  CONFIG` prints those of pre-training.
* **Measured** is by us, on 2 cores of an AMD EPYC; commands and quartiles are in [results](results/README.md). No
  entry: not measured.
* **Paper** is what the paper reports, in percent. **Ours**: "not run" means that we have not run this config at its
  full length. Runs that are scaled down are in
  [results](results/README.md#table2-table4-table6-table10-the-papers-tables-scaled-down).
"""
COLUMNS = ['config', 'data', 'parameters, multiply-adds', 'measured', 'paper', 'ours', 'command']
TITLES = {
    'randsac': 'Pre-training',
    'linear_probe': 'Linear probe',
    'finetune': 'Fine-tuning',
    'segmentation': 'Segmentation',
    'detection': 'Instance segmentation',
}


def read_command(config: Path) -> str:
    """Return the command that trains, from a config's header, on one line."""
    lines = config.read_text().split('# Command:')[1].split('# Cost:')[0].replace('\\\n#', ' ').split('\n')
    line = next(line for line in lines if 'train' in line)
    return ' '.join(line.lstrip('# ').split('  (')[0].split())


def shorten(number: int) -> str:
    """Write a number by three digits with its unit."""
    unit, name = next((unit, name) for unit, name in ((1e9, ' G'), (1e6, ' M'), (1, '')) if number >= unit)
    return f'{number / unit:.3g}{name}' if name else f'{number:,}'


def make_row(model: dict) -> list[str]:
    """Return the cells of one model of a metafile."""
    config, about = Path(model['Config']), model['Metadata']
    epochs = about.get('Epochs')
    results = [f'{what} {value}' for result in model['Results'] or () for what, value in result['Metrics'].items()]
    return [
        f'[{config.stem}](../{config})',
        f'{about["Training Data"]}, ' + (f'{epochs} epochs' if epochs else f'{about["Iterations"]:,} steps'),
        f'{shorten(about["Parameters"])}, {shorten(about["FLOPs"])}',
        about.get('Measured', ''),
        str(about.get('Paper', '')),
        ', '.join(results) or 'not run',
        f'`{read_command(ROOT / config)}`',
    ]


def make_page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for file in load(ROOT / 'model-index.yml')['Import']:
        folder = Path(file).parent
        rows = [COLUMNS, ['---'] * len(COLUMNS), *map(make_row, load(ROOT / file)['Models'])]
        table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
        parts.append(f'## {TITLES[folder.name]}\n\n[What the recipes are](../{folder}/README.md)\n\n{table}\n')
    return '\n'.join(parts)


if __name__ == '__main__':
    (HERE / 'model_zoo.md').write_text(make_page())
