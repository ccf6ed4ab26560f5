"""The pipeline's first step for unlabelled folders."""

import mmcv
from mmcv.transforms import BaseTransform

from randsac_mm.registry import register

from .images import UnreadableImageError, read_image


@register('TRANSFORMS')
class LoadImageStrict(BaseTransform):
    """Load ``results['img_path']`` completely, or raise an error that names the file.

    It takes the place of ``LoadImageFromFile``, with the same keys and channel order (BGR), but reads by
    :func:`~randsac_mm.datasets.images.read_image`: truncated files are errors, transparency is put on white.

    Required key: ``img_path``. Added keys: ``img``, uint8, (H, W, 3) in BGR or (H, W); ``img_shape`` and ``ori_shape``,
    both (H, W).

    Args:
        color_type: ``'color'`` for three channels, ``'grayscale'`` for one.

    Raises:
        ValueError: If ``color_type`` is neither of the two.
    """

    def __init__(self, color_type: str = 'color') -> None:
        super().__init__()
        if color_type not in ('color', 'grayscale'):
            raise ValueError(f"color_type={color_type!r} must be 'color' or 'grayscale'")
        self.color_type = color_type

    def transform(self, results: dict) -> dict:
        """Add the image to ``results``; raise UnreadableImageError if it cannot be read."""
        try:
            image = read_image(results['img_path'])
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error}. Repair or remove the file; UnlabelledImageFolder with check='decode' skips such files"
            ) from error
        image = mmcv.rgb2bgr(image) if self.color_type == 'color' else mmcv.rgb2gray(image)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:  # part of what identifies a cache
        return f'{type(self).__name__}(color_type={self.color_type!r})'
