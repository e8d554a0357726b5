"""TensorBoard's own application in this process, for thousands of questions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from werkzeug.test import Client
from werkzeug.wrappers import Response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what TensorBoard itself imports is deprecated in places
    from tensorboard import default, program
    from tensorboard.backend import application
    from tensorboard.backend.event_processing import plugin_event_multiplexer
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider


def client(logdir: Path) -> Client:
    """Asks TensorBoard with all of its plugins over what is in ``logdir`` by now; answers raise what a server would."""
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["tensorboard", "--logdir", str(logdir), "--load_fast=false"])
    flags: Any = board.flags
    guidance = dict.fromkeys(flags.samples_per_plugin, 0)
    runs = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance=guidance)
    runs.AddRunsFromDirectory(str(logdir))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(logdir))
    app = application.TensorBoardWSGIApp(flags, board.plugin_loaders, provider, deprecated_multiplexer=runs)
    return Client(app, Response)
