"""The tab: which routes there are. TensorBoard makes one of these when it starts, so what answers is loaded later."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any

from tensorboard import plugin_util
from tensorboard.plugins import base_plugin

from gradwatch.tensorboard_plugin.answers import Answer, application
from gradwatch.tensorboard_plugin.assets import Assets
from gradwatch.tensorboard_plugin.metadata import PLUGIN_NAME

if TYPE_CHECKING:
    from gradwatch.tensorboard_plugin.routes import Routes

_ENTRY = "/index.js"
_WHICH = ("run", "statistic", "optimizer", "rows")
_SPAN = ("first", "last")

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "runs": (),
    "incidents": ("run",),
    "names": ("run", "optimizer", "rows"),
    "heatmap": (*_WHICH, "relative", *_SPAN, "row_first", "row_last"),
    "value": (*_WHICH, "row", "step"),
    "profile": (*_WHICH, "step", "theme", "compare"),
    "line": ("run", "layer", "statistic", "optimizer", *_SPAN, "theme", "compare"),
    "through_time": ("run", "step", "theme"),
}
"""What can be asked for, and the arguments that it knows. Each is a method of ``Routes``."""


class GradwatchPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """The gradwatch tab.

    Args:
        context: TensorBoard's; only its data provider is used.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._provider = context.data_provider
        self._assets = Assets()

    def is_active(self) -> bool:
        """TensorBoard decides by ``data_plugin_names``: looking for data here would make its whole page wait."""
        return False

    def frontend_metadata(self) -> Any:
        """How the tab is shown."""
        return base_plugin.FrontendMetadata(es_module_path=_ENTRY, tab_name=PLUGIN_NAME)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Each route with what answers it."""
        return {
            **{f"/{name}": application(functools.partial(self._data, name)) for name in ARGUMENTS},
            _ENTRY: application(self._entry),
            "/static/*": application(self._static),
            "/plotly.min.js": application(lambda request: self._assets.plotly(_known(request))),
        }

    @functools.cached_property
    def _routes(self) -> Routes:
        from gradwatch.tensorboard_plugin.routes import Routes

        return Routes()

    def _data(self, name: str, request: Any) -> Answer:
        from gradwatch.tensorboard_plugin.arguments import Arguments
        from gradwatch.tensorboard_plugin.store import Source

        arguments = Arguments(list(request.args.items(multi=True)), ARGUMENTS[name])
        environ = request.environ
        source = Source(self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ))
        answer: Answer = getattr(self._routes, name)(source, arguments)
        return answer

    def _entry(self, request: Any) -> Answer:
        # The tab is being opened: what answers is loaded while the browser reads the page's files.
        threading.Thread(target=self._warm, daemon=True).start()
        return self._assets.entry(_known(request))

    def _warm(self) -> None:
        with contextlib.suppress(Exception):  # the first question will tell
            _ = self._routes

    def _static(self, request: Any) -> Answer:
        return self._assets.file(request.path.partition("/static/")[2], _known(request))


def _known(request: Any) -> str | None:
    """The version of a file that the browser already has."""
    known: str | None = request.headers.get("If-None-Match")
    return known
