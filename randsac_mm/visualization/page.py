"""The frame of a report: one HTML page that needs nothing but itself."""

from .html import Html, element

# Images from the page itself and its own style; no script, nothing from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d24; --soft: #5c5f6b; --paper: #fff; --card: #f5f5f8; --line: #d9dae1;
  --c0: #6a3d9a; --c1: #c2410c; --c2: #0f766e; --c3: #1d4ed8; --warn: #fff4d6; --warn-ink: #5c4300; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ee; --soft: #a5a8b5; --paper: #16161b; --card: #212128;
  --line: #3a3b45; --c0: #b794f4; --c1: #fb923c; --c2: #5eead4; --c3: #93c5fd; --warn: #3a2f10; --warn-ink: #f5dfa3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main, header, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .75rem; }
section { margin: 2.5rem 0; }
p { max-width: 48rem; }
p, summary, caption { overflow-wrap: anywhere; }
.soft, footer { color: var(--soft); }
footer { font-size: .9rem; padding-bottom: 3rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; }
a { color: var(--c0); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.cards dt { color: var(--soft); font-size: .85rem; }
.cards dd { margin: 0; font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0 0 1rem; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem; margin: 0; }
figcaption { font-size: .9rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; max-width: 44rem; }
svg text { fill: var(--soft); font-size: 13px; }
.grid { stroke: var(--line); }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.c0 { stroke: var(--c0); } polyline.c1 { stroke: var(--c1); }
polyline.c2 { stroke: var(--c2); } polyline.c3 { stroke: var(--c3); }
circle.c0 { fill: var(--c0); } circle.c1 { fill: var(--c1); }
circle.c2 { fill: var(--c2); } circle.c3 { fill: var(--c3); }
.key { white-space: nowrap; margin-left: .8rem; }
.key::before { content: ""; display: inline-block; width: 1.1em; height: .22em; margin-right: .35em;
  vertical-align: middle; background: currentColor; }
.k0 { color: var(--c0); } .k1 { color: var(--c1); } .k2 { color: var(--c2); } .k3 { color: var(--c3); }
.scroll { overflow-x: auto; margin: 1rem 0; }
.scroll img { max-width: none; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: .5rem; }
.picture { overflow-x: auto; }
.picture.wide img { min-width: 40rem; }
table { border-collapse: collapse; min-width: 20rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th[scope=row], .texts td, .texts th, thead th:first-child { text-align: left; }
th[scope=row] { font-weight: 500; }
.texts td { overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem; overflow-x: auto;
  font: .85rem/1.45 ui-monospace, monospace; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 1rem 0; } summary { cursor: pointer; }
.missing { background: var(--warn); color: var(--warn-ink); border-radius: .5rem; padding: .7rem .9rem;
  overflow-wrap: anywhere; white-space: pre-line; }
@media print { body { font-size: 11pt; } nav { display: none; } }
"""


def missing(text: str) -> Html:
    """Say what is not there, and why."""
    return element('p', text, class_='missing')


def cards(pairs: list[tuple[str, str]]) -> Html:
    """Show a few figures, each with its name."""
    boxes = (element('div', element('dt', name), element('dd', value)) for name, value in pairs)
    return element('dl', *boxes, class_='cards')


def page(title: str, lead: Html, sections: list[tuple[str, list[Html]]], foot: Html) -> str:
    """Put a page together.

    Args:
        title: Of the page.
        lead: What stands below the title.
        sections: A title and the elements of each.
        foot: What stands at the end.

    Returns:
        The HTML document.
    """
    anchors = [f's{i}' for i in range(len(sections))]
    links = [
        element('li', element('a', name, href=f'#{anchor}'))
        for anchor, (name, _) in zip(anchors, sections, strict=True)
    ]
    body = [
        element('section', element('h2', name, id=f'{anchor}-h'), *content, id=anchor, aria_labelledby=f'{anchor}-h')
        for anchor, (name, content) in zip(anchors, sections, strict=True)
    ]
    head = element(
        'head',
        element('meta', charset='utf-8'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        element('meta', name_='viewport', content='width=device-width, initial-scale=1'),
        element('title', title),
        element('style', Html(_STYLE)),
    )
    top = element('header', element('h1', title), lead, element('nav', element('ul', *links), aria_label='Parts'))
    inside = element('body', top, element('main', *body), element('footer', foot))
    return f'<!DOCTYPE html>\n{element("html", head, inside, lang="en")}\n'
