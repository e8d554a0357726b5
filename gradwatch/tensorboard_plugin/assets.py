"""The page's own files, and plotly.js as it was installed: a fixed list, so no request ever names a path."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import re
from pathlib import Path

from gradwatch.tensorboard_plugin.answers import Answer, refusal

_MIME = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
}
_STATIC = Path(__file__).parent / "static"
_ASK_AGAIN = "private, no-cache"
_FOR_EVER = "private, max-age=31536000, immutable"
_VERSIONED = re.compile(r"([0-9a-f]{16})/(.*)", re.DOTALL)
_ENTRY, _FOLDER = "index.js", b"./static/"


class Assets:
    """Serves the files that were there when it was made.

    The entry names the others with their version in the path: the browser keeps them, and asks for none of them again
    until one has changed.
    """

    def __init__(self) -> None:
        self._files = {
            path.relative_to(_STATIC).as_posix(): path
            for path in sorted(_STATIC.rglob("*"))
            if path.is_file() and path.suffix in _MIME
        }

    def entry(self, known: str | None) -> Answer:
        """The module that TensorBoard loads.

        Args:
            known: The version that the browser has.
        """
        body = self._files[_ENTRY].read_bytes().replace(_FOLDER, _FOLDER + self._version().encode() + b"/")
        return _tagged(body, _MIME[".js"], known)

    def file(self, name: str, known: str | None) -> Answer:
        """One of the page's files.

        Args:
            name: Relative to ``static``, with or without a version before it.
            known: The version that the browser has.
        """
        versioned = _VERSIONED.fullmatch(name)
        path = self._files.get(versioned[2] if versioned else name)
        if path is None:
            return refusal("there is no such file", 404)
        lasting = versioned is not None and versioned[1] == self._version()
        return _tagged(path.read_bytes(), _MIME[path.suffix], known, keep=_FOR_EVER if lasting else _ASK_AGAIN)

    def plotly(self, known: str | None) -> Answer:
        """plotly.js; the browser keeps it and only asks whether it is still the same."""
        packed = _plotly()
        if packed is None:
            return refusal("plotly is not installed: pip install plotly, and start TensorBoard again", 404)
        return _tagged(packed, _MIME[".js"], known, packed=True)

    def _version(self) -> str:
        """Of all files together, as they are now."""
        states = ((name, path.stat()) for name, path in self._files.items())
        text = repr([(name, state.st_mtime_ns, state.st_size) for name, state in states])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tagged(body: bytes, mime: str, known: str | None, *, packed: bool = False, keep: str = _ASK_AGAIN) -> Answer:
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = (("ETag", tag), ("Cache-Control", keep))
    if known is not None and tag in known:
        return Answer(b"", mime, 304, headers=headers)
    return Answer(body, mime, packed=packed, headers=headers)


@functools.lru_cache(maxsize=1)
def _plotly() -> bytes | None:
    """Packed once; found without importing plotly."""
    spec = importlib.util.find_spec("plotly")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return gzip.compress(path.read_bytes(), 6, mtime=0)
    return None
