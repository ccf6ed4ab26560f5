"""Copy configs and tools into the wheel, where OpenMMLab looks for them. Everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PATTERNS = ('model-index.yml', 'configs/**/*.*', 'tools/**/*.py', 'tools/dist_*.sh', 'tools/slurm_train.sh')


class BuildWithConfigs(build_py):
    """Build the package with ``randsac_mm/.mim``; an editable one uses the folders of the clone."""

    def run(self) -> None:
        """Build, and copy the files."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, 'randsac_mm', '.mim')
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        for pattern in PATTERNS:
            for path in ROOT.glob(pattern):
                if path.suffix in ('.py', '.md', '.yml', '.sh'):
                    copy = target / path.relative_to(ROOT)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)


setup(cmdclass={'build_py': BuildWithConfigs})
