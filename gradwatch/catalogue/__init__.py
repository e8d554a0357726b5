"""What every alarm and every cause means, for somebody who has never heard of it: plain data, one page each."""

from __future__ import annotations

from collections.abc import Mapping

from gradwatch.catalogue.causes import CAUSES
from gradwatch.catalogue.kinds import KINDS
from gradwatch.catalogue.page import Page
from gradwatch.catalogue.words import WORDS, words_in

__all__ = ["PAGES", "WORDS", "Page", "words_in"]

PAGES: Mapping[str, Page] = {page.code: page for page in (*KINDS, *CAUSES)}
"""Every page by its code."""
