"""Contract: links lead somewhere, the model zoo has every config and true numbers, tutorials have no stored outputs.

The pages themselves are built, and the tutorials run, by ``sphinx-build`` in ``tools/run_tests.sh``.
"""

import re
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from randsac_mm.complexity import multiply_adds

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    path
    for path in sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'configs').rglob('*.md')])
    if not {'_build', '_pages', 'jupyter_execute'} & set(path.parts)
]
FOLDERS = ('randsac', 'linear_probe', 'finetune', 'segmentation', 'detection')
MODELS_LISTED = [model for folder in FOLDERS for model in load(ROOT / 'configs' / folder / 'metafile.yml')['Models']]
ZOO = runpy.run_path(str(ROOT / 'docs' / 'make_model_zoo.py'))


def read_text(page: Path) -> str:
    """Read a page without its blocks of code."""
    return re.sub(r'^```.*?^```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)


def make_anchor(title: str) -> str:
    """Make the anchor of a heading as code hosts do."""
    plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title).lower()
    return re.sub(r'[^\w\- ]', '', plain).strip().replace(' ', '-')


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r'\]\(([^)\s]+)\)', read_text(page)):
        path, _, anchor = link.partition('#')
        if re.match(r'[a-z]+:', link):
            continue
        target = page.parent / path if path else page
        if not target.exists():
            broken.append(link)
        elif anchor:
            titles = re.findall(r'^#+ (.*)$', read_text(target), re.MULTILINE)
            broken += [link] * (anchor not in map(make_anchor, titles))
    return broken


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / 'other.md').write_text('# A `title`: of two\n')
    page = tmp_path / 'page.md'
    page.write_text(
        '[a](other.md#a-title-of-two) [b](other.md#c) [c](none.md) [d](https://example.org)\n```\n[e](f)\n```\n'
    )
    assert broken_links(page) == ['other.md#c', 'none.md']


def test_the_readme_is_short() -> None:
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 120


def test_tutorials_are_text_without_outputs() -> None:
    tutorials = sorted((ROOT / 'docs' / 'tutorials').iterdir())
    assert len(tutorials) >= 4
    assert all('file_format: mystnb' in tutorial.read_text() for tutorial in tutorials)


def test_the_model_zoo_has_every_config_once() -> None:
    configs = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / 'configs' / folder).glob('*.py')]
    assert sorted(model['Config'] for model in MODELS_LISTED) == sorted(configs)
    listed = load(ROOT / 'model-index.yml')['Import']
    assert listed == [f'configs/{folder}/metafile.yml' for folder in FOLDERS]


def test_the_page_of_the_model_zoo_is_that_of_the_metafiles() -> None:
    page = (ROOT / 'docs' / 'model_zoo.md').read_text()
    assert page == ZOO['make_page'](), 'run: python docs/make_model_zoo.py'
    for model in MODELS_LISTED:
        assert f'](../{model["Config"]}) |' in page


@pytest.mark.parametrize('model', MODELS_LISTED, ids=lambda model: model['Name'])
def test_values_of_the_paper_and_measurements_can_be_traced(model: dict) -> None:
    header = (ROOT / model['Config']).read_text().split('_base_')[0].split('# Expected:')[1]
    numbers = re.findall(r'\d+\.\d+', str(model['Metadata'].get('Paper', '')))
    assert all(number in header for number in numbers)
    assert bool(numbers) == bool(re.search(r'paper[^;]*: [a-z ]*\d+\.\d', header.split('Ours:')[0]))
    measured = model['Metadata'].get('Measured', '').split(' ')[0]
    assert measured in (ROOT / 'docs' / 'results' / 'README.md').read_text()


def count(path: Path) -> tuple[int, int]:
    """Return trained parameters and multiply-adds of a config's model, without memory for its numbers."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval().to('meta')
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, multiply_adds(lambda: predict(model, cfg.default_scope))


def predict(model: nn.Module, scope: str) -> None:
    """Run what the metafile counts."""
    height, width = {'mmseg': (512, 512), 'mmdet': (1024, 1024)}.get(scope) or model.backbone.img_size
    features = model.extract_feat(torch.empty(1, 3, height, width, device='meta'))
    if scope == 'mmpretrain':
        model.head(features)
    elif scope == 'mmseg':
        model.decode_head(features)
        model.auxiliary_head(features)
    else:
        model.rpn_head(features)
        model.roi_head.bbox_head(torch.empty(512, 256, 7, 7, device='meta'))
        model.roi_head.mask_head(torch.empty(128, 256, 14, 14, device='meta'))


@pytest.mark.slow
@pytest.mark.parametrize('model', [m for m in MODELS_LISTED if '/randsac/' not in m['Config']], ids=lambda m: m['Name'])
def test_parameters_and_multiply_adds(model: dict) -> None:
    """Those of pre-training are tested in test_configs.py."""
    assert count(ROOT / model['Config']) == (model['Metadata']['Parameters'], model['Metadata']['FLOPs'])
