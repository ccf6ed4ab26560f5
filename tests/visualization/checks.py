"""Check pictures without a look at single pixels, and an HTML page without a browser."""

from html.parser import HTMLParser

from PIL import Image


class Page(HTMLParser):
    """Read elements (name, attributes) and text of a page, and collect what is wrong with it: its faults."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.faults, self.tags, self.text, self.open = [], [], '', []
        self.feed(html)
        self.close()
        names = [name for name, _ in self.tags]
        ids = [attributes['id'] for _, attributes in self.tags if 'id' in attributes]
        links = {attributes['href'].removeprefix('#') for name, attributes in self.tags if name == 'a'}
        for fault, found in {
            'never closed': self.open,
            'not allowed': set(names) & {'script', 'link', 'iframe', 'object', 'base', 'svg'},
            'a table has no caption': names.count('table') != names.count('caption'),
            'an id comes twice': len(ids) != len(set(ids)),
            'links lead nowhere': links - set(ids),
        }.items():
            if found:
                self.faults.append(f'{fault}: {found}')

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in ('br', 'img', 'meta'):
            self.open.append(tag)
        if tag == 'img' and not attributes.get('alt'):
            self.faults.append('an image has no alt')
        for name, value in attributes.items():
            if name.startswith('on') or (name in ('src', 'href', 'srcset') and not value.startswith(('data:', '#'))):
                self.faults.append(f'{tag} {name}={value[:80]}')

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f'</{tag}> closes something else')

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ['style']:
            self.text += data


def check_picture(path, kind='PNG', least=(300, 100)):
    """Check that a file is a picture of some size that is not blank."""
    with Image.open(path) as picture:
        assert picture.format == kind
        assert picture.width >= least[0]
        assert picture.height >= least[1]
        assert len(picture.convert('RGB').getcolors(1_000_000)) > 10, 'blank'
