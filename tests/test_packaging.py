"""The package can be installed beside either OpenMMLab family, and its requirement files agree with each other."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import tomllib
from mmengine.fileio import load
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from randsac_mm.version import __version__

OPENMMLAB = re.compile(r'^(onedl-)?mm(cv|engine|pretrain|segmentation|detection|det|cls)(-|$)')
FILES = ['runtime', 'mminstall', 'transfer', 'tests', 'optional', 'docs', 'stock']


def requirements(root: Path, name: str) -> list[Requirement]:
    lines = (root / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


@pytest.fixture(scope='module')
def project(root: Path) -> dict:
    return tomllib.loads((root / 'pyproject.toml').read_text())['project']


@pytest.fixture(scope='module')
def pins(root: Path) -> dict[str, str]:
    result = {}
    for pin in requirements(root, 'constraints'):
        (specifier,) = pin.specifier
        assert (specifier.operator, pin.name) == ('==', canonicalize_name(pin.name))
        assert pin.name not in result, f'{pin.name} is pinned twice'
        result[pin.name] = specifier.version
    return result


@pytest.mark.parametrize('missing', ['mmengine', 'mmpretrain'])
def test_import_without_openmmlab_names_both_families(missing: str):
    code = f'import sys; sys.modules[{missing!r}] = None; import randsac_mm'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith('ImportError: '), done.stderr
    assert all(part in message for part in (missing, 'requirements/mminstall.txt', 'requirements/stock.txt'))


@pytest.fixture(scope='module')
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist, and so from nothing but what the sdist has."""
    folder = tmp_path_factory.mktemp('built')
    names = ('LICENSE', 'MANIFEST.in', '*.md', '*.toml', '*.yml', 'setup.py', 'randsac_mm', 'configs', 'tools', 'tests')
    (folder / 'clone').mkdir()
    for path in (path for name in names for path in root.glob(name)):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / 'clone' / path.name)
    backend = 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])'
    subprocess.run([sys.executable, '-c', backend, folder], cwd=folder / 'clone', check=True, capture_output=True)
    (sdist,) = folder.glob('*.tar.gz')
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, sdist]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob('*.whl')
    return wheel


@pytest.mark.slow
def test_wheel_has_every_file_of_the_package_its_configs_and_its_tools(root: Path, wheel: Path):
    packed = {name for name in ZipFile(wheel).namelist() if not re.search('[.]dist-info/', name)}
    package = [path for path in (root / 'randsac_mm').rglob('*') if path.suffix in ('.py', '.html', '.jinja')]
    carried = [root / 'model-index.yml', *(path for path in (root / 'configs').rglob('*') if path.suffix != '.pyc')]
    carried += [path for path in (root / 'tools').rglob('*') if path.suffix == '.py']
    carried += [root / 'tools' / f'{name}.sh' for name in ('dist_train', 'dist_test', 'slurm_train')]
    expected = {str(path.relative_to(root)) for path in package}
    expected |= {f'randsac_mm/.mim/{path.relative_to(root)}' for path in carried if path.is_file()}
    assert packed == expected


# Five lines of a user in one process: every import of torch takes seconds.
SESSION = """
import shlex, sys
from randsac_mm.cli import main
for line in open('lines.txt').read().splitlines():
    sys.argv[1:] = shlex.split(line)
    main()
"""
LINES = """\
train mine.py --epochs 2
evaluate mine.py work_dirs/mine/epoch_2.pth --data digits
export work_dirs/mine/epoch_2.pth --to safetensors
report work_dirs/mine --out page.html
complexity configs/smoke/randsac_vit_digits.py
"""


@pytest.mark.slow
def test_installed_wheel_works_from_an_empty_folder(tmp_path: Path, wheel: Path):
    site, empty = tmp_path / 'site', tmp_path / 'empty'
    install = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', site, wheel]
    assert subprocess.run(install, capture_output=True).returncode == 0
    empty.mkdir()
    (empty / 'mine.py').write_text("_base_ = 'randsac_mm::smoke/randsac_vit_digits.py'\n")
    (empty / 'lines.txt').write_text(LINES)
    command = site / 'bin' / 'randsac-mm'
    command.write_text(command.read_text().partition('\n')[0] + SESSION)  # the installed script's place and name
    env = {**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, command], cwd=empty, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = empty / 'work_dirs' / 'mine'
    (origin,) = run.glob('*/origin.json')
    assert json.loads(origin.read_text())['command'] == 'randsac-mm train mine.py --epochs 2'
    assert re.search(r'encoder, pre-trained +[0-9.]+', done.stdout)
    assert (run / 'epoch_2_export' / 'safetensors' / 'verification.json').is_file()
    assert 'mine' in (empty / 'page.html').read_text()
    assert {path.name for path in empty.iterdir()} == {'mine.py', 'lines.txt', 'page.html', 'work_dirs'}


def test_model_index_names_every_metafile(root: Path):
    listed = re.findall(r'configs/\S+', (root / 'model-index.yml').read_text())
    assert sorted(listed) == sorted(str(path.relative_to(root)) for path in (root / 'configs').rglob('metafile.yml'))


@pytest.mark.parametrize('name', [*FILES, 'constraints'])
def test_requirement_files_name_no_place(root: Path, name: str):
    text = (root / 'requirements' / f'{name}.txt').read_text()
    assert not re.search(r'://|--(extra-)?index-url|--find-links|--trusted-host| @ ', text)


@pytest.mark.parametrize('name', FILES)
def test_every_requirement_is_pinned_to_a_version_that_satisfies_it(root: Path, pins: dict[str, str], name: str):
    # One constraints file serves both families; those of the stock one may be pinned where they are required.
    for requirement in requirements(root, name):
        if name == 'stock' and canonicalize_name(requirement.name) not in pins:
            assert [specifier.operator for specifier in requirement.specifier] == ['=='], requirement
        else:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_every_pin_allows_the_first_releases_of_python(pins: dict[str, str]):
    """pip would search for minutes for others that fit together, in vain."""
    packages = [package for package in importlib.metadata.distributions() if canonicalize_name(package.name) in pins]
    assert len(packages) > 50
    for package in packages:
        allowed = SpecifierSet(package.metadata['Requires-Python'] or '')
        assert all(version in allowed for version in ('3.11.0', '3.12.0')), package.name


def test_families_do_not_mix(root: Path):
    onedl = {item.name for name in ('mminstall', 'transfer') for item in requirements(root, name)} - {'scipy'}
    assert all(name.startswith('onedl-') for name in onedl)
    stock = {requirement.name for requirement in requirements(root, 'stock')} - {'setuptools'}
    assert stock == {'mmcv-lite', 'mmengine', 'mmpretrain'}
    assert all(OPENMMLAB.match(name) for name in onedl | stock)


def test_installing_us_replaces_no_openmmlab(root: Path, project: dict):
    ours = [Requirement(line) for line in project['dependencies']]
    assert not [requirement.name for requirement in ours if OPENMMLAB.match(requirement.name)]
    assert set(map(str, ours)) == set(map(str, requirements(root, 'runtime')))
    # An upper bound, or a lower one above what a working environment may have, would make pip replace something.
    assert all(str(requirement.specifier) in ('', '>=2.0') for requirement in ours)


def test_extras_agree_with_requirement_files(root: Path, project: dict):
    for extra, lines in project['optional-dependencies'].items():
        named = {Requirement(line).name for line in lines}
        assert named == {requirement.name for requirement in requirements(root, extra)}


def test_other_files_name_the_same_versions(root: Path, project: dict):
    hooks = [hook for repo in load(root / '.pre-commit-config.yaml')['repos'] for hook in repo['hooks']]
    tests = project['optional-dependencies']['tests']
    assert all(line in tests for hook in hooks for line in hook.get('additional_dependencies', []))
    jobs = load(root / '.github' / 'workflows' / 'ci.yml')['jobs']
    pythons = jobs['wheel']['strategy']['matrix']['python']
    assert project['requires-python'] == f'>={pythons[0]}'
    named = [line.rpartition(' ')[2] for line in project['classifiers'] if '3.' in line]
    assert named == pythons
    assert set(jobs['checks']['strategy']['matrix']['python']) <= set(pythons)
    assert any(step.get('run') == 'bash .ci/run' for step in jobs['checks']['steps'])
    assert load(root / 'CITATION.cff', file_format='yaml')['version'] == __version__


def bash(root: Path, script: str, **env: str) -> subprocess.CompletedProcess:
    """Run a script that has the functions of ``tools/_env.sh``."""
    command = ['bash', '-euo', 'pipefail', '-c', f'. "{root}/tools/_env.sh"; {script}']
    return subprocess.run(command, capture_output=True, text=True, env=env or None)


def test_shell_scripts_parse(root: Path):
    for script in [*(root / 'tools').rglob('*.sh'), root / '.ci' / 'run']:
        done = subprocess.run(['bash', '-n', script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_wrong_python_is_explained(root: Path, tmp_path: Path):
    old = tmp_path / 'python3.7'
    old.write_text('#!/bin/sh\nexit 1\n')
    old.chmod(0o755)
    done = bash(root, 'find_python', PATH='/usr/bin:/bin', HOME=str(tmp_path), RANDSAC_PYTHON=str(old))
    assert done.returncode == 1
    assert all(part in done.stderr for part in ('3.11', str(old), 'RANDSAC_PYTHON='))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('line', 'advice'),
    [
        ('ERROR: [Errno 28] No space left on device', 'space'),
        ('ERROR: No matching distribution found for torch==2.11.0', 'network'),
        ('fatal error: Python.h: No such file or directory', 'python3-dev'),
    ],
)
def test_a_failed_step_names_the_remedy(root: Path, tmp_path: Path, line: str, advice: str):
    done = bash(root, f'LOG={tmp_path}/log STEP=0 STEPS=1; step title soon sh -c "echo {line!r}; exit 3"')
    assert done.returncode == 1
    assert line in done.stderr
    assert advice in done.stderr.split('FAILED: title')[1]


def test_only_a_complete_environment_is_kept(root: Path, tmp_path: Path):
    env = tmp_path / 'env'
    key = bash(root, 'env_key stock').stdout

    def is_made() -> bool:
        # `need_space` comes right after the decision to make the environment; here it stands for all that follows.
        done = bash(root, f'need_space() {{ echo making; exit 0; }}; make_env "{env}" stock')
        assert done.returncode == 0, done.stderr
        return done.stdout == 'making\n'

    assert is_made()
    (env / 'bin').mkdir(parents=True)
    (env / 'bin' / 'python').symlink_to(sys.executable)
    assert is_made(), 'interrupted: no stamp'
    (env / '.complete').write_text(key.replace('stock', 'tests'))
    assert is_made(), 'another stamp'
    (env / '.complete').write_text(key)
    assert not is_made()
    (env / 'bin' / 'python').unlink()
    assert is_made(), 'its Python is gone'


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason='not in a virtual environment')
def test_python_of_an_environment_leads_to_its_base(root: Path):
    # run_tests.sh may be called while .venv/tests, which it is about to remove, is activated.
    done = bash(root, 'find_python; say "$PYTHON"', PATH='/usr/bin:/bin', HOME=str(root), RANDSAC_PYTHON=sys.executable)
    python = Path(done.stdout.strip())
    assert python.is_file(), done.stderr
    assert not python.is_relative_to(sys.prefix)
