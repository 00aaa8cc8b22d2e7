"""The card of a mask as HTML. It may be a stranger's: its own HTML is shown as text, and nothing is fetched for it."""

import re
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

FRONT_MATTER = re.compile(r"\A\s*---\r?\n.*?\n---\r?\n", re.DOTALL)
LEVELS_BELOW = 2  # the headings of a card stand below those of the page


def card_html(text: str) -> Markup:
    """The Markdown of a card, without its front matter.

    HTML in it is shown as text, comments are left out, pictures become their description, and links lead to http and
    https only.
    """
    return Markup(_parser().render(FRONT_MATTER.sub("", text, count=1)))


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")  # html: as tokens, which the rules below escape
    for rule in (html_block, html_inline, image, heading_open, heading_close, link_open, table_open, table_close):
        parser.add_render_rule(rule.__name__, rule)
    parser.validateLink = lambda url: url.lower().startswith(("https://", "http://"))  # type: ignore[method-assign]
    return parser


# Rules of markdown-it: they are named after the tokens that they render.
Tokens = Any


def html_block(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return f"<p>{escape(tokens[index].content)}</p>\n" if not _is_comment(tokens[index]) else ""


def html_inline(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return str(escape(tokens[index].content)) if not _is_comment(tokens[index]) else ""


def image(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return str(escape(f"[picture: {tokens[index].content}]"))


def heading_open(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return f"<h{_level(tokens[index])}>"


def heading_close(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return f"</h{_level(tokens[index])}>\n"


def link_open(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return f'<a href="{escape(tokens[index].attrs["href"])}" target="_blank" rel="nofollow noopener noreferrer">'


def table_open(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return '<div class="scrolled" tabindex="0" role="region" aria-label="Table of the card"><table>\n'


def table_close(self: Any, tokens: Tokens, index: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


def _is_comment(token: Any) -> bool:
    content = token.content.strip()
    return content.startswith("<!--") and content.endswith("-->")


def _level(token: Any) -> int:
    return min(int(token.tag[1:]) + LEVELS_BELOW, 6)
