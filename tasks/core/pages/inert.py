"""Foreign text as people are shown it: what a model, a provider, a venue or a feed wrote does nothing.

It is escaped where it is shown, never where it is kept. HTML is left to jinja, which escapes everything.
"""

import re
import unicodedata

# An underscore inside a word (OPEN_LONG) is never markup; "//" after ":" and "." after "www" would become links.
_ACTIVE = re.compile(r"[\\`*\[\]<>&|~#!@$]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=www)\.", re.IGNORECASE)
# What makes a link, an image, a definition, a tag or an address that becomes a link by itself: a space in it ends that.
_LINKS = re.compile(
    r"(?<=\])(?=[(\[:])|(?<=<)(?=[a-z/!?])|(?<=:)(?=//)|(?<=www)(?=\.)|(?<=\w)(?=@[\w-]+\.\w)", re.IGNORECASE
)


def markdown(text: str) -> str:
    """Write what Markdown or HTML would act on as character references, which both only ever show."""
    return _ACTIVE.sub(lambda hit: "".join(f"&#{ord(c)};" for c in hit[0]), visible(text))


def plain(text: str) -> str:
    """Take the links, images and tags out of a text that somebody may show as Markdown; its lines stay lines."""
    return _LINKS.sub(" ", "".join(c if c in "\n\t" else line(c) for c in text))


def line(text: str) -> str:
    """Write a text as one line for a log or a terminal: what cannot be seen, and ends of lines, as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible(text: str) -> str:
    """Drop what cannot be seen (control and direction characters, surrogates) and make every space a plain one."""
    spaced = "".join(" " if unicodedata.category(c)[0] == "Z" or c in "\t\r\n" else c for c in text)
    return "".join(c for c in spaced if unicodedata.category(c)[0] != "C")
