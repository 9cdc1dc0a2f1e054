"""What a person would read of an HTML page: its title, its text, its links; scripts and styles are left out.

The standard library's parser is enough for this, and what it cannot parse is still text. Everything is
bounded, since a page may hold anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urljoin

TITLE_LIMIT: Final = 300
"""Longest title, in characters."""
LINKS_LIMIT: Final = 50
"""Most links of one page."""
LINK_TEXT_LIMIT: Final = 120
"""Longest text of a link, in characters."""
LINK_LIMIT: Final = 500
"""Longest address of a link, in characters; longer ones are left out."""

_SILENT: Final = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object"})
_BREAKS: Final = frozenset(
    {
        *(
            "address",
            "article",
            "aside",
            "blockquote",
            "br",
            "dd",
            "div",
            "dl",
            "dt",
            "fieldset",
            "figcaption",
        ),
        *(
            "figure",
            "footer",
            "form",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "header",
            "hr",
            "li",
            "main",
            "nav",
        ),
        *("ol", "option", "p", "pre", "section", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul"),
    }
)


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page, with the text that leads there."""

    text: str
    url: str


@dataclass(frozen=True, slots=True)
class Page:
    """What is read of a page."""

    title: str
    text: str
    links: tuple[Link, ...]


class _Reader(HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base = base
        self.title: list[str] = []
        self.text: list[str] = []
        self.links: list[Link] = []
        self._silent: list[str] = []
        self._in_title = False
        self._link: tuple[str, list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag == "title":
            self._in_title = True
        elif tag == "a" and not self._silent:
            self._end_link()
            address = dict(attrs).get("href") or ""
            self._link = (address, []) if address else None
        if tag in _BREAKS:
            self.text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:  # whatever was left open inside ends with it
            del self._silent[self._silent.index(tag) :]
        elif tag == "title":
            self._in_title = False
        elif tag == "a":
            self._end_link()
        if tag in _BREAKS:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif not self._silent:
            self.text.append(data)
            if self._link is not None:
                self._link[1].append(data)

    def close(self) -> None:
        super().close()
        self._end_link()

    def _end_link(self) -> None:
        link, self._link = self._link, None
        if link is None or len(self.links) >= LINKS_LIMIT or len(link[0]) > LINK_LIMIT:
            return
        try:
            url = urljoin(self.base, link[0].strip())
        except ValueError:
            return
        if url.startswith(("http://", "https://")) and len(url) <= LINK_LIMIT:
            self.links.append(Link(_line("".join(link[1]))[:LINK_TEXT_LIMIT], url))


def read_page(html: str, base: str) -> Page:
    """The readable part of a page.

    Args:
        html: The page.
        base: Its address, which relative links start from.
    """
    reader = _Reader(base)
    reader.feed(html)
    reader.close()
    lines = (_line(line) for line in "".join(reader.text).splitlines())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return Page(_line("".join(reader.title))[:TITLE_LIMIT], text, tuple(reader.links))


def _line(text: str) -> str:
    return " ".join(text.split())
