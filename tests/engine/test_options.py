"""Contract: options stay text where the config has a string; elsewhere they are read as mmengine reads them."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, DictAction

from randsac_mm.engine.options import parse_options

CONFIG = {
    'name': 'old', 'flag': True, 'whole': 3, 'share': 0.5, 'nothing': None, 'sizes': [1, 2], 'part': {'type': 'A'},
    'items': [{'root': 'x', 'n': 1}], 'load_from': None, 'loader': {'data_root': None},
}  # fmt: skip


def parse(option):
    return next(iter(parse_options(Config(CONFIG), [option]).values()))


@given(st.text(st.characters(codec='utf-8')))
def test_a_string_stays_exactly_what_was_typed(text):
    for key in ('name', 'items.0.root', 'part.type'):
        assert parse(f'{key}={text}') == text


@pytest.mark.parametrize(
    'text', ['/my photos/a', '2024', '1e5', 'a,b', '[old] photos', 'x' + '(' * 9999, 'None', "'q'"]
)
def test_paths_and_odd_names(text):
    assert parse(f'name={text}') == text
    for key in ('load_from', 'loader.data_root', 'model.init_cfg.checkpoint', 'work_dir'):
        assert parse(f'{key}={text}') == (text if text != 'None' else None)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('7', 7), ('1e-3', 0.001), ('-2', -2), ('true', True), ('False', False), ('none', None), ('None', None),
        ('word', 'word'), ('two words', 'two words'), ("'7'", '7'), ('{"a": [1, (2,)]}', {'a': [1, (2,)]}),
        ('1,2', [1, 2]), ('[a b, c]', ['a b', 'c']), ('(a,1)', ('a', 1)),
        ('[(a,1),[b,2.5],c]', [('a', 1), ['b', 2.5], 'c']), ('(1,2),(3,4)', [(1, 2), (3, 4)]),
        ("['a,b', c]", ['a,b', 'c']), ('[]', []), ('[word]', ['word']), ('a,', ['a']),
        ('[1,2', '[1,2'), ('a)b(', 'a)b('), ("don't,x", "don't,x"), ('', ''), ('1if', '1if'), ('a=b', 'a=b'),
        ('[' * 9999 + 'a' + ']' * 9999, '[' * 9999 + 'a' + ']' * 9999),
    ],
)  # fmt: skip
def test_other_values(text, value):
    for key in ('nothing', 'new.key', 'part', 'sizes'):
        assert (parse(f'{key}={text}'), type(parse(f'{key}={text}'))) == (value, type(value))


WORDS = st.sampled_from(['3', '0.5', '1e-3', 'true', 'None', 'word', 'a-b', 'x/y'])


@given(st.recursive(WORDS, lambda inner: st.lists(inner, min_size=2, max_size=3).flatmap(
    lambda parts: st.sampled_from([f'[{",".join(parts)}]', f'({",".join(parts)})'])
)))  # fmt: skip
def test_documented_uses_read_as_mmengine_reads_them(text):
    namespace = argparse.Namespace(options=None)
    DictAction([], 'options')(None, namespace, [f'new={text}'])
    assert parse(f'new={text}') == namespace.options['new']


@pytest.mark.parametrize(
    ('option', 'value'),
    [('whole=1e5', 100000), ('whole=0.5', 0.5), ('share=2', 2), ('flag=none', None), ('whole=1,2', [1, 2])],
)
def test_numbers_fit_numbers(option, value):
    assert repr(parse(option)) == repr(value)


@pytest.mark.parametrize(
    ('option', 'named'),
    [
        ('whole=abc', r'whole=abc.* int 3 .*abc'), ('share=true', 'share=True.* float 0.5'), ('=3', "'=3'"),
        ('flag=1', 'flag=1.* bool True'), ('items.0.n=x', r'items\.0\.n=x.* int 1'), ('name', "'name'.*KEY=VALUE"),
        ('flag=maybe', 'flag=maybe.* bool'),
    ],
)  # fmt: skip
def test_mistakes_name_key_and_value(option, named):
    with pytest.raises(ValueError, match=f'^--cfg-options {named}'):
        parse(option)
