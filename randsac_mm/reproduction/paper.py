"""What the paper reports: the rows of its tables on CIFAR, and which of our recipes each of them is."""

from typing import NamedTuple


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        name: What the paper calls it, or we, if it is not in the paper's table.
        recipe: Key of :data:`randsac_mm.reproduction.recipes.RECIPES`, or None if there is no code to run.
        linear: The paper's linear probe, percent; None if there is none.
        finetune: The paper's fine-tuning, percent; None if there is none.
        note: What a reader must know about the row.
    """

    name: str
    recipe: str | None
    linear: float | None = None
    finetune: float | None = None
    note: str = ''


class Table(NamedTuple):
    """One table.

    Attributes:
        title: What it compares.
        rows: Its rows on CIFAR, then ours.
        orders: What the paper concludes from it: pairs of names of a worse and a better row.
    """

    title: str
    rows: tuple[Row, ...]
    orders: tuple[tuple[str, str], ...] = ()


_RASTER = Row('patch-raster', 'patch-raster', 55.53, 78.67)
_RANDOM = Row('patch-random', 'patch-random', 75.53, 87.52)
_OURS = "not in the paper's table"
_DINO = "mmpretrain's wheel holds no DINO (its code is in the repository's projects/, which is not installed)"


def _low_data(data: str, values: tuple[tuple[float | None, float], ...]) -> tuple[Row, ...]:
    names = ('supervised', 'DINO', 'MAE', 'RandSAC square 16 -> 4', 'RandSAC blob 11 -> 5')
    recipes = ('supervised', None, 'mae', 'square', 'blob')
    return tuple(
        Row(f'{data}: {name}', recipe and f'{data.lower()}-{recipe}', *value, note='' if recipe else _DINO)
        for name, recipe, value in zip(names, recipes, values, strict=True)
    )


def _blobs(shuffled: str, values: dict[int, tuple[float, float]]) -> tuple[Row, ...]:
    return tuple(
        Row(f'{shuffled}blob, {k} segments', f'{shuffled.replace(" ", "-")}blob-{k}', *value)
        for k, value in values.items()
    )


def _hierarchies(shape: str, values: dict[tuple[int, ...], tuple[float, float]]) -> tuple[Row, ...]:
    return tuple(
        Row(f'{shape} {" -> ".join(map(str, sizes))}', f'{shape}-{"-".join(map(str, sizes))}', *value)
        for sizes, value in values.items()
    )


TABLES = {
    1: Table(
        'raster order: pixels and patches',
        (Row('pixel-raster', 'pixel-raster', 41.70, 59.35), _RASTER),
        (('pixel-raster', 'patch-raster'),),
    ),
    2: Table(
        'raster and random order',
        (_RASTER._replace(note="its values are in the paper's Table 1"), _RANDOM),
        (('patch-raster', 'patch-random'),),
    ),
    3: Table(
        'size of square segments',
        (
            Row('square, M = 1', 'patch-random', 75.53, 87.52),
            Row('square, M = 2', 'square-16', 81.38, 91.38),
            Row('square, M = 4', 'square-4', 79.38, 90.23),
        ),
        (('square, M = 1', 'square, M = 2'), ('square, M = 1', 'square, M = 4')),
    ),
    4: Table(
        'shape of segments',
        (
            _RANDOM,
            Row('square-random (M = 2)', 'square-16', 81.38, 91.38),
            # 82.52 is that of 7 segments and 91.53 that of 9 in Table 5: the best of each column.
            Row('blob-random (7 segments)', 'blob-7', 82.52, 91.53, "the paper's values are its best of any number"),
            *(
                Row(
                    f'{name}, norm_pix', f'{recipe}-norm-pix', note=f'{_OURS}; patches normalised, as in Tables 7 to 10'
                )
                for name, recipe in (
                    ('patch-raster', 'patch-raster'),
                    ('patch-random', 'patch-random'),
                    ('square-random', 'square-16'),
                    ('blob-random', 'blob-7'),
                )
            ),
        ),
        (
            ('patch-random', 'square-random (M = 2)'),
            ('patch-random', 'blob-random (7 segments)'),
            ('square-random (M = 2)', 'blob-random (7 segments)'),
            ('patch-raster, norm_pix', 'patch-random, norm_pix'),
            ('patch-random, norm_pix', 'square-random, norm_pix'),
            ('patch-random, norm_pix', 'blob-random, norm_pix'),
            ('square-random, norm_pix', 'blob-random, norm_pix'),
        ),
    ),
    5: Table(
        'coherent and shuffled segments',
        _blobs('', {3: (80.87, 90.77), 5: (81.82, 90.88), 7: (82.52, 91.14), 9: (81.88, 91.53), 11: (82.02, 91.24)})
        + _blobs(
            'shuffled ', {3: (76.73, 89.63), 5: (77.73, 89.75), 7: (76.69, 89.22), 9: (78.59, 90.0), 11: (76.99, 89.15)}
        ),
        tuple((f'shuffled blob, {k} segments', f'blob, {k} segments') for k in (3, 5, 7, 9, 11)),
    ),
    6: Table(
        'segments in a hierarchy',
        _hierarchies('square', {(4,): (79.38, 89.61), (16,): (81.38, 91.38), (16, 4): (82.46, 91.66)})
        + _hierarchies(
            'blob',
            {
                (3,): (80.87, 90.77),
                (7,): (82.52, 91.14),
                (7, 3): (82.71, 91.20),
                (4,): (81.09, 90.63),
                (16,): (80.97, 90.57),
                (16, 4): (82.61, 91.15),
            },
        ),
        (
            ('square 4', 'square 16 -> 4'),
            ('square 16', 'square 16 -> 4'),
            ('blob 3', 'blob 7 -> 3'),
            ('blob 7', 'blob 7 -> 3'),
            ('blob 4', 'blob 16 -> 4'),
            ('blob 16', 'blob 16 -> 4'),
        ),
    ),
    7: Table(
        'low-data pre-training, ViT-S',
        _low_data('CIFAR10', ((None, 91.3), (89.0, 94.4), (87.3, 95.9), (92.1, 96.7), (93.9, 96.9)))
        + _low_data('CIFAR100', ((None, 64.13), (65.78, 76.3), (54.0, 81.1), (69.7, 81.5), (67.9, 79.6))),
        (
            ('CIFAR10: MAE', 'CIFAR10: RandSAC square 16 -> 4'),
            ('CIFAR10: MAE', 'CIFAR10: RandSAC blob 11 -> 5'),
        ),
    ),
    9: Table(
        'patch size, random order of patches',
        tuple(
            Row(f'{p} x {p} pixels', f'patch-random-p{p}' if p != 4 else 'patch-random', *value)
            for p, value in {
                1: (59.79, 79.70),
                2: (69.63, 87.18),
                4: (75.53, 87.52),
                8: (75.34, 83.10),
                16: (60.77, 69.23),
            }.items()
        ),
        (('1 x 1 pixels', '4 x 4 pixels'), ('16 x 16 pixels', '4 x 4 pixels')),
    ),
    10: Table(
        'architecture, blobs 11 -> 5',
        (
            Row('two-stream', 'two-stream', 84.4, 91.5),
            Row('transformer', 'transformer', 88.0, 93.6),
            Row('transformer-skip', 'transformer-skip', 89.5, 94.4),
            Row('MAE', 'mae-norm-pix', note=_OURS),
            Row('supervised from scratch', 'supervised', note=_OURS),
            Row('untrained', 'untrained', note=_OURS),
            Row('raw pixels', 'raw-pixels', note=_OURS),
        ),
        (('two-stream', 'transformer'), ('transformer', 'transformer-skip')),
    ),
}
