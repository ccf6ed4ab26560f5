"""No two results have one name, and none replaces an input."""

import os

import pytest
from PIL import Image

from randsac_mm.inference import find_images
from randsac_mm.inference.paths import check_no_input


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (5, 3)).save(file)


def test_names_are_kept_and_never_shared(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    files = [a / 'street.jpg', b / 'street.jpg', b / 'street.png', b / 'Street_2.png', b / 'x.y.jpg']
    touch(*files)
    assert find_images([*files, files[0]]) == dict(
        zip(files, ['street', 'street_2', 'street_3', 'Street_2_2', 'x.y'], strict=True)
    )


def test_earlier_results_are_no_inputs_unless_named(tmp_path):
    results = tmp_path / 'out' / 'pictures'
    touch(tmp_path / 'a.png', tmp_path / 'deep' / 'b.JPG', results / 'a.png')
    assert list(find_images([tmp_path], without=[results]).values()) == ['a', 'deep/b']
    assert list(find_images([results], without=[results])) == [results / 'a.png']


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.jpg'):
        find_images([tmp_path / 'gone.jpg'])
    with pytest.raises(FileNotFoundError, match=r'\.bmp'):
        find_images([tmp_path])
    with pytest.raises(ValueError, match='no image'):
        find_images([])


@pytest.mark.parametrize('link', [os.symlink, os.link])
def test_an_input_is_never_an_output(tmp_path, link):
    photo, output = tmp_path / 'a.png', tmp_path / 'b.png'
    touch(photo)
    check_no_input([output], [photo])
    link(photo, output)
    with pytest.raises(ValueError, match=r'\.png'):
        check_no_input([output], [photo])
