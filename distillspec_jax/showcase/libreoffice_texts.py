"""Sentence pairs of LibreOffice, English and German: Debian's packages of its help and its catalogues."""

from __future__ import annotations

import gettext
import html
import re
from collections.abc import Iterator
from pathlib import Path


def of_help(downloads: Path) -> Iterator[tuple[str, str]]:
    """Yields the paragraphs of the help, English and German, page by page."""
    roots = [
        downloads / f"x-libreoffice-help-{x.lower()}/usr/share/libreoffice/help/{x}/text"
        for x in ("en-US", "de")
    ]
    for page in sorted(roots[0].rglob("*.html")):
        other = roots[1] / page.relative_to(roots[0])
        if other.is_file():
            english, german = _paragraphs(page), _paragraphs(other)
            yield from ((english[id], german[id]) for id in english if id in german)


def _paragraphs(page: Path) -> dict[str, str]:
    found = re.findall(
        r'<(p|h\d) id="((?:par|hd)_\w+)"[^>]*>(.*?)</\1>', page.read_text(encoding="utf-8"), re.DOTALL
    )
    return {id: _plain(text) for _, id, text in found if "switchinline" not in text}


def _plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())


def of_interface(downloads: Path) -> Iterator[tuple[str, str]]:
    """Yields labels and messages in both languages, without those that hold a placeholder."""
    folder = downloads / "x-libreoffice-l10n-de/usr/lib/libreoffice/program/resource/de/LC_MESSAGES"
    for path in sorted(folder.glob("*.mo")):
        with path.open("rb") as file:
            catalog = vars(gettext.GNUTranslations(file))["_catalog"]
        for english, german in sorted((k, v) for k, v in catalog.items() if isinstance(k, str)):
            pair = [_label(text) for text in (english.split("\x04")[-1], german)]
            if not any(re.search(r"[%$#{<\\_~|]", text) for text in pair):
                yield pair[0], pair[1]


def _label(text: str) -> str:
    text = text.replace("%PRODUCTNAME", "LibreOffice")
    return " ".join(re.sub(r"(?<![^\W_])[_~](?=\w)|[_~](?=\w\w*$)|~", "", text, count=1).split())
