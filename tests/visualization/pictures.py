"""Check pictures without a look at single pixels."""

from PIL import Image


def check_picture(path, kind='PNG', least=(300, 100)):
    """Check that a file is a picture of some size that is not blank, and that nothing temporary lies beside it."""
    with Image.open(path) as picture:
        assert picture.format == kind
        assert picture.width >= least[0]
        assert picture.height >= least[1]
        assert len(picture.convert('RGB').getcolors(1_000_000)) > 10, 'blank'
    assert not [file for file in path.parent.iterdir() if 'partial' in file.name]
    return path
