"""The page's own files, and plotly.js as it was installed: a fixed list, so no request ever names a path."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
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


class Assets:
    """Serves the files that were there when it was made."""

    def __init__(self) -> None:
        self._files = {
            path.relative_to(_STATIC).as_posix(): path
            for path in sorted(_STATIC.rglob("*"))
            if path.is_file() and path.suffix in _MIME
        }

    def file(self, name: str, known: str | None) -> Answer:
        """One of the page's files.

        Args:
            name: Relative to ``static``.
            known: The version that the browser has.
        """
        path = self._files.get(name)
        if path is None:
            return refusal("there is no such file", 404)
        return _versioned(path.read_bytes(), _MIME[path.suffix], known)

    def plotly(self, known: str | None) -> Answer:
        """plotly.js; the browser keeps it and only asks whether it is still the same."""
        packed = _plotly()
        if packed is None:
            return refusal("plotly is not installed: pip install plotly, and start TensorBoard again", 404)
        return _versioned(packed, _MIME[".js"], known, packed=True)


def _versioned(body: bytes, mime: str, known: str | None, *, packed: bool = False) -> Answer:
    version = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = (("ETag", version), ("Cache-Control", _ASK_AGAIN))
    if known is not None and version in known:
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
