"""What a page carries inside so that it needs nothing else: figures, scripts, plotly.js of the installed package."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any


class Figures:
    """The figures of a page, in the order in which they are placed."""

    def __init__(self) -> None:
        self.drawn: list[dict[str, Any]] = []

    def place(self, make: Any) -> str:
        """Draw in both themes, and give the element for it; nothing where there is nothing to draw."""
        light, dark = make("light"), make("dark")
        if light is None or not light["data"]:
            return ""
        self.drawn.append({"data": light["data"], "light": light["layout"], "dark": dark["layout"]})
        height = int(light["layout"]["height"])
        return f'<div class="figure" data-figure="{len(self.drawn) - 1}" style="height: {height}px"></div>'

    def json(self) -> str:
        """All of them as JSON that no HTML parser takes for an end of its script."""
        data = json.dumps(self.drawn, allow_nan=False, separators=(",", ":"))
        for char in "<>&":
            data = data.replace(char, f"\\u{ord(char):04x}")
        return data


def own(name: str) -> str:
    """A style or a script of this folder."""
    return (resources.files("gradwatch._report") / name).read_text(encoding="utf-8")


def plotly() -> str:
    """plotly.js as the installed package brings it, so that no version of it lives in this one."""
    source = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return source.replace("</script", "<\\/script")


def hashed(script: str) -> str:
    """What the page's policy calls a script that may run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
