"""The pipeline's first step for unlabelled folders."""

import mmcv
from mmcv.transforms import BaseTransform

from randsac_mm.registry import register

from .images import MAX_PIXELS, UnreadableImageError, check_max_pixels, read_image


@register('TRANSFORMS')
class LoadImageStrict(BaseTransform):
    """Load ``results['img_path']`` completely, or raise an error that names the file.

    It takes the place of ``LoadImageFromFile``, with the same keys and the same channel order (BGR), and differs
    where that one depends on cv2: truncated files and decompression bombs are errors, transparency is put on white,
    CMYK and GIF are read. See :func:`~randsac_mm.datasets.images.read_image`. It takes about a tenth longer.

    Required key: ``img_path``. Added keys: ``img``, uint8, (H, W, 3) in BGR or (H, W); ``img_shape`` and ``ori_shape``,
    both (H, W).

    Args:
        color_type: ``'color'`` for three channels, ``'grayscale'`` for one.
        max_pixels: Largest height times width to decode.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, color_type: str = 'color', max_pixels: int = MAX_PIXELS) -> None:
        super().__init__()
        if color_type not in ('color', 'grayscale'):
            raise ValueError(f"color_type={color_type!r} must be 'color' or 'grayscale'")
        self.color_type = color_type
        self.max_pixels = check_max_pixels(max_pixels)

    def transform(self, results: dict) -> dict:
        """Add the image to ``results``.

        Raises:
            UnreadableImageError: If the file cannot be read.
        """
        try:
            image = read_image(results['img_path'], self.max_pixels)
        except UnreadableImageError as error:
            raise UnreadableImageError(
                f"{error}. Repair or remove the file; UnlabelledImageFolder with check='decode' skips such files"
            ) from error
        image = mmcv.rgb2bgr(image) if self.color_type == 'color' else mmcv.rgb2gray(image)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:  # part of what identifies a cache
        return f'{type(self).__name__}(color_type={self.color_type!r}, max_pixels={self.max_pixels})'
