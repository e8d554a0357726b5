"""What TensorBoard imports when it starts. An error in here would stop the user's TensorBoard, so nothing can fail."""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin

_NAME = "gradwatch"


class GradwatchLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """Loads the tab; without it TensorBoard goes on."""

    def fix_flags(self, flags: Any) -> None:
        """Keep every step: by default TensorBoard keeps 10 to 1,000 samples of a tag, and a spike would be lost."""
        try:
            flags.samples_per_plugin.setdefault(_NAME, 0)
        except Exception:
            logging.getLogger(_NAME).exception("gradwatch: TensorBoard will show samples, not every step")

    def load(self, context: Any) -> Any:
        """The plugin, or None where it cannot be loaded."""
        try:
            from gradwatch.tensorboard_plugin.plugin import GradwatchPlugin

            return GradwatchPlugin(context)
        except Exception:
            logging.getLogger(_NAME).exception("gradwatch: the tab cannot be shown")
            return None
