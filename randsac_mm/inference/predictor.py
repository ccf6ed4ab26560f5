"""Prediction of image files: arrays, pictures and files in the libraries' own formats."""

import copy
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from randsac_mm.datasets.images import UnreadableImageError, printable
from randsac_mm.engine.launch import load_config
from randsac_mm.files import atomic_write, write_json
from randsac_mm.transfer.model_loading import load_model

from .drawing import PARTS, draw_instances
from .paths import check_no_input, find_images
from .preparation import build_inferencer, describe_classes, find_scope, prepare

_FOLDERS = {'mmseg': ('pictures', 'labels'), 'mmdet': ('pictures', 'instances')}
_INDEX = 'results.json'


class Segmented(NamedTuple):
    """Segmentation of one image.

    Attributes:
        image: The file.
        labels: Index of the class of every pixel, (H, W), int64; names are in ``Predictor.classes``.
        picture: The image and the map, (H, W, 3), uint8, RGB.
        files: The files that were written.
    """

    image: Path
    labels: np.ndarray
    picture: np.ndarray
    files: tuple[Path, ...]


class Detected(NamedTuple):
    """The K instances found in one image, most confident first.

    Attributes:
        image: The file.
        boxes: Left, top, right and bottom in pixels, (K, 4), float32.
        labels: Index of each instance's class, (K,), int64; names are in ``Predictor.classes``.
        scores: Confidence, (K,), float32, from 0 to 1; ``score_thr`` changes only what is drawn.
        masks: Pixels of each instance, (K, H, W), bool; None if the model predicts no masks.
        picture: The image and the instances, (H, W, 3), uint8, RGB.
        files: The files that were written.
    """

    image: Path
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None
    picture: np.ndarray
    files: tuple[Path, ...]


class Faulty(NamedTuple):
    """An image that was not predicted, the reason, and the error that was raised unless the file is damaged."""

    image: Path
    reason: str
    error: Exception | None = None

    def __str__(self) -> str:
        return f'{printable(self.image)}: {self.reason}'


class Predictor:
    """Predictor of segmentation maps or instance masks of image files, through mmseg's or mmdet's own inferencer.

    The numbers are those of ``mmseg.apis.inference_model`` and ``mmdet.apis.inference_detector``. Unlike there, the
    checkpoint is loaded strictly and safely, and a pre-training checkpoint that the config names need not exist.

    Args:
        config: A config of segmentation (``default_scope='mmseg'``) or detection (``'mmdet'``), file or object.
        checkpoint: A checkpoint of that config's run.
        device: Where to predict: ``'cpu'``, ``'cuda'``, ``'cuda:1'``.
        score_thr: Detection only: instances below this score are not drawn; None means 0.3.
        draw: Detection only: what to draw, of ``'boxes'``, ``'masks'``, ``'names'``; None: see :func:`draw_instances`.
        options: Changes to the config, as ``{'model.test_cfg.rcnn.score_thr': 0.5}``.

    Attributes:
        task: ``'segmentation'`` or ``'detection'``.
        classes: Names of the classes.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the config is of another task, the checkpoint cannot be read safely or does not fit, a library is
            missing, or an argument is out of range.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        device: str = 'cpu',
        score_thr: float | None = None,
        options: dict[str, Any] | None = None,
        draw: Sequence[str] | None = None,
    ) -> None:
        if isinstance(config, Config):
            cfg = copy.deepcopy(config)
            cfg.merge_from_dict(options or {})
        else:
            cfg = load_config(os.fspath(config), options, None, 'none')
        self.scope = find_scope(cfg)
        self.task = 'segmentation' if self.scope == 'mmseg' else 'detection'
        if score_thr is not None and (self.scope == 'mmseg' or not 0 <= score_thr <= 1):
            raise ValueError(f'score_thr={score_thr} must be between 0 and 1, and is for detection only')
        if draw is not None and (self.scope == 'mmseg' or set(draw) - set(PARTS)):
            raise ValueError(f'draw={draw} must be some of {", ".join(PARTS)}, and is for detection only')
        self._parts = draw
        self._score_thr = 0.3 if score_thr is None else score_thr
        with DefaultScope.overwrite_default_scope(self.scope):
            self._load = prepare(cfg, self.scope)
            self._inferencer = build_inferencer(cfg, self.scope, device)
            model = self._inferencer.model
            meta = load_model(model, checkpoint)
            head = model.decode_head if self.scope == 'mmseg' else model.roi_head.bbox_head
            described = describe_classes(cfg, meta.get('dataset_meta') or {}, head.num_classes)
        self.classes: list[str] = described['classes']
        model.dataset_meta = self._inferencer.visualizer.dataset_meta = described
        self._about = {'config': cfg.filename and str(cfg.filename), 'checkpoint': os.fspath(checkpoint)}

    def __call__(
        self, images: str | os.PathLike | Sequence[str | os.PathLike], out: str | os.PathLike | None = None
    ) -> list[Segmented | Detected]:
        """Return all results of :meth:`stream`.

        Raises:
            UnreadableImageError: If images could not be predicted, after all others were; the message names them.
        """
        results = list(self.stream(images, out))
        faults = [result for result in results if isinstance(result, Faulty)]
        if faults:
            raise UnreadableImageError(
                f'{len(faults)} of {len(results)} images could not be predicted (use Predictor.stream to get the '
                'others):\n' + '\n'.join(map(str, faults))
            ) from next((fault.error for fault in faults if fault.error), None)
        return results

    def stream(
        self, images: str | os.PathLike | Sequence[str | os.PathLike], out: str | os.PathLike | None = None
    ) -> Iterator[Segmented | Detected | Faulty]:
        """Predict images one after the other.

        Args:
            images: Files and folders, see :func:`find_images`.
            out: Folder for ``pictures/NAME.png``, either ``labels/NAME.png`` (class indices of 8 or 16 bits) or
                ``instances/NAME.json`` (mmdet's own format, masks in COCO's run lengths) and, in the end,
                ``results.json`` (all files and the classes). None: nothing is written.

        Yields:
            The result of an image, or :class:`Faulty` if the file is damaged or the model raises an error.

        Raises:
            FileNotFoundError: If there is no such image or folder, or a folder has no image in it.
            ValueError: If a result would overwrite an image.
        """
        listed = [images] if isinstance(images, str | os.PathLike) else list(images)
        folders = [] if out is None else [Path(out, name) for name in _FOLDERS[self.scope]]
        names = find_images(listed, without=folders)
        outputs = {file: self._outputs(folders, name) for file, name in names.items()}
        if out is not None:
            existing = [file for file in names if file.exists()]
            check_no_input([Path(out, _INDEX), *(p for paths in outputs.values() for p in paths)], existing)
        entries, faults = [], []
        for file in names:
            result = self._predict(file, outputs[file])
            if isinstance(result, Faulty):
                faults.append({'image': printable(file), 'reason': result.reason})
            else:
                written = [path.relative_to(out).as_posix() for path in result.files] if out is not None else []
                entries.append({'image': printable(file), 'files': written})
            yield result
        if out is not None:
            index = {**self._about, 'task': self.task, 'classes': self.classes, 'images': entries, 'faults': faults}
            write_json(Path(out, _INDEX), index)

    def _outputs(self, folders: Sequence[Path], name: str) -> tuple[Path, ...]:
        endings = ('.png', '.png' if self.scope == 'mmseg' else '.json')
        return tuple(folder / f'{name}{ending}' for folder, ending in zip(folders, endings, strict=False))

    def _predict(self, file: Path, outputs: tuple[Path, ...]) -> Segmented | Detected | Faulty:
        try:
            with DefaultScope.overwrite_default_scope(self.scope), warnings.catch_warnings():
                # A box may end outside the picture; mmdet's drawing is older than numpy 2.
                warnings.filterwarnings('ignore', message='.* is out of bounds|__array_wrap__ must accept')
                pixels = self._load({'img_path': os.fspath(file)})['img']
                return (self._segment if self.scope == 'mmseg' else self._detect)(file, pixels, outputs)
        except UnreadableImageError as error:
            return Faulty(file, str(error).removeprefix(f'{printable(file)}: '))
        except Exception as error:  # one image must not stop the others
            return Faulty(file, f'{type(error).__name__}: {error}', error)

    def _segment(self, file: Path, pixels: np.ndarray, outputs: tuple[Path, ...]) -> Segmented:
        sample = self._inferencer(pixels, return_datasamples=True)
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        picture = np.asarray(self._inferencer.visualize([_to_rgb(pixels)], [sample], return_vis=True)[0])
        if outputs:
            _save_picture(picture, outputs[0])
            # mmseg's own writer wraps indices above 255 round.
            _save_picture(labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16), outputs[1])
        return Segmented(file, labels.astype(np.int64), picture, outputs)

    def _detect(self, file: Path, pixels: np.ndarray, outputs: tuple[Path, ...]) -> Detected:
        sample = self._inferencer(pixels, return_datasamples=True)['predictions'][0]
        found, drawer = sample.pred_instances.numpy(), self._inferencer.visualizer
        masks = np.asarray(found.masks, dtype=bool) if 'masks' in found else None
        sure = found.scores > self._score_thr
        names = [
            f'{self.classes[k]} {100 * s:.0f}' for k, s in zip(found.labels[sure], found.scores[sure], strict=True)
        ]
        colors = [drawer.dataset_meta['palette'][k] for k in found.labels[sure]]
        drawn = None if masks is None else masks[sure]
        shown = found.bboxes[sure], names, colors, drawn, self._parts, drawer.alpha
        picture = draw_instances(_to_rgb(pixels), *shown)
        if outputs:
            _save_picture(picture, outputs[0])
            with atomic_write(outputs[1]) as path:
                path.write_text(json.dumps(self._inferencer.pred2dict(sample)) + '\n')
        return Detected(file, found.bboxes, found.labels, found.scores, masks, picture, outputs)


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert an image in BGR, with alpha or not, or grey."""
    return np.broadcast_to(np.atleast_3d(pixels)[..., 2::-1], (*pixels.shape[:2], 3)).astype(np.uint8)


def _save_picture(pixels: np.ndarray, path: Path) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
