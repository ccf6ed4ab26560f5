"""The package can be installed beside either OpenMMLab family, and its requirement files agree with each other."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OPENMMLAB = re.compile(r'^(onedl-)?mm(cv|engine|pretrain|segmentation|detection|det|cls)(-|$)')
FILES = ['runtime', 'mminstall', 'transfer', 'tests', 'optional', 'stock']


def requirements(root: Path, name: str) -> list[Requirement]:
    lines = (root / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


@pytest.fixture(scope='module')
def pins(root: Path) -> dict[str, str]:
    """Versions of the constraints file by normalised name."""
    result = {}
    for pin in requirements(root, 'constraints'):
        (specifier,) = pin.specifier
        assert specifier.operator == '==', pin
        assert pin.name == canonicalize_name(pin.name), pin
        assert pin.name not in result, f'{pin.name} is pinned twice'
        result[pin.name] = specifier.version
    return result


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_import_needs_neither_ops_nor_mmseg_nor_mmdet():
    done = run_python(
        # An entry of None makes any import of that module fail, even one that is caught and ignored elsewhere.
        'import sys\n'
        'sys.modules.update(dict.fromkeys(["mmseg", "mmdet", "mmcv._ext"]))\n'
        'import randsac_mm\n'
        'from mmpretrain.registry import MODELS\n'
        'assert MODELS.get("RandSAC").__module__.startswith("randsac_mm.")\n'
        'loaded = [name for name in sys.modules if name.split(".")[0] in ("mmseg", "mmdet") and sys.modules[name]]\n'
        'assert not loaded, loaded\n'
        'print(randsac_mm.__version__)'
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == metadata.version('randsac-mm')


@pytest.mark.parametrize('missing', ['mmengine', 'mmpretrain'])
def test_import_without_openmmlab_names_both_families(missing: str):
    done = run_python(f'import sys\nsys.modules[{missing!r}] = None\nimport randsac_mm')
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith('ImportError: '), done.stderr
    for part in (missing, 'OneDL', 'stock', 'requirements/mminstall.txt', 'requirements/stock.txt'):
        assert part in message


@pytest.mark.slow
def test_segments_need_torch_only(root: Path):
    # Below randsac_mm/__init__, which imports OpenMMLab; so the folder is imported under another name.
    done = run_python(
        f'import sys\nsys.path.insert(0, {str(root / "randsac_mm")!r})\n'
        'sys.modules.update(dict.fromkeys(["mmengine", "mmcv", "mmpretrain"]))\n'
        'import segments\nprint(segments.__all__)'
    )
    assert done.returncode == 0, done.stderr
    assert 'SquarePartition' in done.stdout


@pytest.mark.parametrize('name', [*FILES, 'constraints'])
def test_requirement_files_name_no_place(root: Path, name: str):
    text = (root / 'requirements' / f'{name}.txt').read_text()
    assert not re.search(r'://|--(extra-)?index-url|--find-links|--trusted-host| @ ', text)
    assert requirements(root, name), 'the file requires nothing'


@pytest.mark.parametrize('name', [name for name in FILES if name != 'stock'])
def test_constraints_cover_and_satisfy_every_requirement(root: Path, pins: dict[str, str], name: str):
    for requirement in requirements(root, name):
        assert canonicalize_name(requirement.name) in pins, f'{requirement.name} of {name}.txt is not pinned'
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_constraints_hold_for_the_stock_family_too(root: Path, pins: dict[str, str]):
    # One constraints file serves both, so a pin of the stock family would have to agree with it.
    for requirement in requirements(root, 'stock'):
        if requirement.name in pins:
            assert pins[requirement.name] in requirement.specifier
        else:
            (specifier,) = requirement.specifier
            assert specifier.operator == '==', f'{requirement} is pinned nowhere'


def test_constraints_leave_the_platform_to_torch(pins: dict[str, str]):
    assert not [name for name in pins if name.startswith(('nvidia-', 'cuda-')) or name == 'triton']


def test_families_do_not_mix(root: Path):
    onedl = {requirement.name for name in ('mminstall', 'transfer') for requirement in requirements(root, name)}
    assert all(name.startswith('onedl-') for name in onedl)
    stock = {requirement.name for requirement in requirements(root, 'stock')} - {'setuptools'}
    assert stock == {'mmcv-lite', 'mmengine', 'mmpretrain'}


def test_installing_us_replaces_no_openmmlab(root: Path):
    ours = [Requirement(line) for line in metadata.requires('randsac-mm') or []]
    assert not [requirement.name for requirement in ours if OPENMMLAB.match(requirement.name)]
    needed = {str(requirement) for requirement in ours if requirement.marker is None}
    assert needed == {str(requirement) for requirement in requirements(root, 'runtime')}
    # An upper bound, or a lower one above what a working environment may have, would make pip replace something.
    assert all(str(requirement.specifier) in ('', '>=2.0') for requirement in ours if requirement.marker is None)


def test_pattern_recognises_both_families():
    names = ['onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmengine', 'onedl-mmengine', 'mmengine-lite', 'mmpretrain', 'mmdet']
    assert all(OPENMMLAB.match(name) for name in names)
    assert not any(OPENMMLAB.match(name) for name in ['torch', 'numpy', 'mmh3'])


def test_extras_agree_with_requirement_files(root: Path):
    ours = [Requirement(line) for line in metadata.requires('randsac-mm') or []]
    for extra in ('tests', 'optional'):
        named = {item.name for item in ours if item.marker and item.marker.evaluate({'extra': extra})}
        assert named == {requirement.name for requirement in requirements(root, extra)}


@pytest.mark.parametrize('script', ['quickstart.sh', 'run_tests.sh', '_env.sh', '../.ci/run'])
def test_shell_scripts_parse(root: Path, script: str):
    done = subprocess.run(['bash', '-n', str(root / 'tools' / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_python_is_explained(root: Path, tmp_path: Path):
    old = tmp_path / 'python3.7'
    old.write_text('#!/bin/sh\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ['bash', '-c', f'. "{root}/tools/_env.sh"; find_python'],
        capture_output=True,
        text=True,
        env={'PATH': '/usr/bin:/bin', 'HOME': str(tmp_path), 'RANDSAC_PYTHON': str(old)},
    )
    assert done.returncode == 1
    assert 'no Python 3.11 or 3.12 found' in done.stderr
    assert 'RANDSAC_PYTHON=' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ('line', 'advice'),
    [
        ('ERROR: [Errno 28] No space left on device', 'free some space'),
        ('ERROR: No matching distribution found for torch==2.11.0', 'is there a network'),
        ('fatal error: Python.h: No such file or directory', 'python3-dev'),
        ('Segmentation fault', 'Read the log'),
    ],
)
def test_a_failed_step_says_what_to_do(root: Path, tmp_path: Path, line: str, advice: str):
    script = (
        f'. "{root}/tools/_env.sh"; LOG={tmp_path}/log STEP=0 STEPS=1; step title soon sh -c "echo {line!r}; exit 3"'
    )
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], capture_output=True, text=True)
    assert done.returncode == 1
    assert '[1/1] title (usually soon)' in done.stdout
    assert line in done.stderr
    assert 'FAILED: title' in done.stderr
    assert re.search(advice, done.stderr)


def test_only_a_complete_environment_is_kept(root: Path, tmp_path: Path):
    # `need_space` comes right after the decision to make the environment; here it stands for all that follows.
    env = tmp_path / 'env'
    script = f'. "{root}/tools/_env.sh"; need_space() {{ echo making; exit 0; }}; make_env "{env}" stock'
    key = subprocess.run(
        ['bash', '-c', f'. "{root}/tools/_env.sh"; env_key stock'], capture_output=True, text=True
    ).stdout
    assert key.startswith(f'stock {root} ')

    def decision() -> str:
        done = subprocess.run(['bash', '-euo', 'pipefail', '-c', script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert decision() == 'making\n'
    (env / 'bin').mkdir(parents=True)
    (env / 'bin' / 'python').symlink_to(sys.executable)
    assert decision() == 'making\n', 'interrupted: no stamp'
    (env / '.complete').write_text(key.replace('stock', 'tests'))
    assert decision() == 'making\n', 'another stamp'
    (env / '.complete').write_text(key)
    assert decision() == '', 'complete'
    (env / 'bin' / 'python').unlink()
    assert decision() == 'making\n', 'its Python is gone'


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason='not in a virtual environment')
def test_python_of_an_environment_leads_to_its_base(root: Path):
    # run_tests.sh may be called while .venv/tests, which it is about to remove, is activated.
    done = subprocess.run(
        ['bash', '-c', f'. "{root}/tools/_env.sh"; find_python; say "$PYTHON"'],
        capture_output=True,
        text=True,
        env={'PATH': '/usr/bin:/bin', 'HOME': str(root), 'RANDSAC_PYTHON': sys.executable},
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()
    assert not Path(done.stdout.strip()).is_relative_to(sys.prefix)
