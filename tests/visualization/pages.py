"""Check an HTML page as far as that goes without a browser."""

from html.parser import HTMLParser

VOID = {'br', 'img', 'meta'}


class Page(HTMLParser):
    """Read a page and collect what is wrong with it.

    Attributes:
        faults: What is wrong, in words.
        tags: All elements, (name, attributes), in order.
        text: All text outside of styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.faults, self.tags, self.text, self.open, self.ids = [], [], '', [], set()
        self.feed(html)
        self.close()
        if self.open:
            self.faults.append(f'never closed: {self.open}')
        names = [name for name, _ in self.tags]
        if names.count('table') != names.count('caption'):
            self.faults.append('a table has no caption')
        self.faults += [
            f'a link leads nowhere: {attributes["href"]}'
            for name, attributes in self.tags
            if name == 'a' and attributes['href'].removeprefix('#') not in self.ids
        ]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ('script', 'link', 'iframe', 'object', 'base', 'svg'):
            self.faults.append(f'<{tag}>')
        if tag == 'img' and not (attributes.get('alt') and attributes['src'].startswith('data:image/')):
            self.faults.append(f'image without alt or from elsewhere: {attributes.get("alt")}')
        for name, value in attributes.items():
            if name.startswith('on') or (name in ('src', 'href', 'srcset') and not value.startswith(('data:', '#'))):
                self.faults.append(f'{tag} {name}={value[:80]}')
        if 'id' in attributes:
            if attributes['id'] in self.ids:
                self.faults.append(f'id {attributes["id"]} twice')
            self.ids.add(attributes['id'])

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f'</{tag}> closes something else')

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == 'style':
            if 'url(' in data or '@import' in data:
                self.faults.append('the style fetches something')
        else:
            self.text += data
