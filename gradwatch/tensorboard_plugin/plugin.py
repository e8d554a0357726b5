"""The tab: which routes there are. TensorBoard makes one of these when it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorboard import plugin_util
from tensorboard.plugins import base_plugin

from gradwatch.tensorboard_plugin.answers import Answer, application
from gradwatch.tensorboard_plugin.arguments import Arguments
from gradwatch.tensorboard_plugin.assets import Assets
from gradwatch.tensorboard_plugin.metadata import PLUGIN_NAME
from gradwatch.tensorboard_plugin.routes import Routes
from gradwatch.tensorboard_plugin.store import Source

_ENTRY = "/index.js"


class GradwatchPlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # TensorBoard has no types
    """The gradwatch tab.

    Args:
        context: TensorBoard's; only its data provider is used.
    """

    plugin_name = PLUGIN_NAME

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._provider = context.data_provider
        self._routes = Routes()
        self._assets = Assets()

    def is_active(self) -> bool:
        """TensorBoard decides by ``data_plugin_names``: looking for data here would make its whole page wait."""
        return False

    def frontend_metadata(self) -> Any:
        """How the tab is shown."""
        return base_plugin.FrontendMetadata(es_module_path=_ENTRY, tab_name=PLUGIN_NAME)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Each route with what answers it."""
        routes = {f"/{name}": self._data(*route) for name, route in self._routes.table().items()}
        return {
            **routes,
            _ENTRY: application(lambda request: self._assets.file(_ENTRY[1:], _known(request))),
            "/static/*": application(self._static),
            "/plotly.min.js": application(lambda request: self._assets.plotly(_known(request))),
        }

    def _data(self, answer: Callable[[Source, Arguments], Answer], allowed: tuple[str, ...]) -> Any:
        def answered(request: Any) -> Answer:
            arguments = Arguments(list(request.args.items(multi=True)), allowed)
            environ = request.environ
            source = Source(self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ))
            return answer(source, arguments)

        return application(answered)

    def _static(self, request: Any) -> Answer:
        return self._assets.file(request.path.partition("/static/")[2], _known(request))


def _known(request: Any) -> str | None:
    """The version of a file that the browser already has."""
    known: str | None = request.headers.get("If-None-Match")
    return known
