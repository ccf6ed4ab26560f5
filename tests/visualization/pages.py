"""Check an HTML page as far as that goes without a browser."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Read a page and collect what is wrong with it.

    Attributes:
        faults: What is wrong, in words.
        tags: All elements, (name, attributes), in order.
        text: All text outside of styles.
    """

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
        if self.open and self.open[-1] == 'style':
            if 'url(' in data or '@import' in data:
                self.faults.append('the style fetches something')
        else:
            self.text += data
