"""What the tab can ask for, and what it may say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

from gradwatch.tensorboard_plugin import heatmap as pictures
from gradwatch.tensorboard_plugin import runs as known_runs
from gradwatch.tensorboard_plugin.answers import Answer, as_json
from gradwatch.tensorboard_plugin.arguments import Arguments, one_of
from gradwatch.tensorboard_plugin.cache import Cache
from gradwatch.tensorboard_plugin.live import LiveRecording
from gradwatch.tensorboard_plugin.refused import RefusedError
from gradwatch.tensorboard_plugin.shortened import Shortened
from gradwatch.tensorboard_plugin.store import Source
from gradwatch.tensorboard_plugin.stripes import Stripes, new_cache

Theme: TypeAlias = Literal["light", "dark"]

STATISTICS = ("grad_norm", "num_nonfinite", "grad_max", "weight_norm", "update_ratio")
ROWS, SWITCH = ("parameters", "modules"), ("0", "1")
THEMES: tuple[Theme, Theme] = ("light", "dark")
MAX_ANSWERS = 64 * 2**20
"""Bytes of answers that are kept."""


class Routes:
    """The answers; keeps what was read and what was said."""

    def __init__(self) -> None:
        self._known = known_runs.Runs()
        self._blocks = new_cache()
        self._drawn: Cache[pictures.Picture] = Cache(MAX_ANSWERS, lambda picture: picture.values.nbytes)
        self._said: Cache[Answer] = Cache(MAX_ANSWERS, lambda answer: len(answer.body))

    def runs(self, source: Source, _arguments: Arguments) -> Answer:
        """Every run, and how it is."""
        found = self._known.all(source)
        return as_json({"runs": [known_runs.entry(run, recording) for run, recording in found.items()]})

    def incidents(self, source: Source, arguments: Arguments) -> Answer:
        """What went wrong; of very much the first and the newest."""
        recording = self._run(source, arguments)
        return self._once(recording, "incidents", (), lambda: known_runs.incidents(recording))

    def names(self, source: Source, arguments: Arguments) -> Answer:
        """All rows in depth order."""
        stripes = self._stripes(self._run(source, arguments), arguments)
        return as_json({"names": [] if stripes is None else list(stripes.names)})

    def heatmap(self, source: Source, arguments: Arguments) -> Answer:
        """The picture, or a part of it."""
        recording = self._run(source, arguments)
        first, last = arguments.between("first", "last")
        row_first, row_last = arguments.between("row_first", "row_last")
        ask = pictures.Ask(first, last, row_first, row_last, arguments.choice("relative", SWITCH, "0") == "1")
        stripes = self._stripes(recording, arguments)
        if stripes is None:
            return as_json(pictures.nothing("no step has been recorded yet"))
        return self._once(recording, "heatmap", (stripes.key, ask), lambda: self._picture(recording, stripes, ask))

    def _picture(self, recording: LiveRecording, stripes: Stripes, ask: pictures.Ask) -> dict[str, Any]:
        key = recording.serial, stripes.key, ask.whole
        whole = self._drawn.get(key, lambda: pictures.draw(stripes, ask.whole))
        picture = whole if ask == ask.whole else pictures.draw(stripes, ask)
        own = [(number, one) for number, one, _ in known_runs.shown(recording) if one.optimizer == stripes.optimizer]
        return pictures.answer(picture, whole, stripes, ask, own)

    def value(self, source: Source, arguments: Arguments) -> Answer:
        """One value, exactly."""
        recording, row, step = self._run(source, arguments), arguments.needed("row"), arguments.whole("step")
        if step is None:
            raise RefusedError("step is missing")
        stripes = self._stripes(recording, arguments)
        names = () if stripes is None else stripes.names
        one_of("row", row, names)
        found = None if stripes is None else stripes.at(step, names.index(row))
        return as_json({"step": found and found[0], "layer": row, "value": found and _told(found[1])})

    # ---------------------------------------------------------------------------------------------------- the figures

    def profile(self, source: Source, arguments: Arguments) -> Answer:
        """Figure: a statistic against depth."""
        recording, other = self._run(source, arguments), self._other(source, arguments)
        which, step = self._which(recording, arguments), arguments.whole("step")
        theme = _theme(arguments)
        if other is not None and which["optimizer"] not in other.optimizers:
            other = None

        def make() -> Any:
            from gradwatch import figures

            return figures.depth_profile(
                self._short(recording), step=step, theme=theme, compare=other and self._short(other), **which
            )

        return self._figure(recording, other, "profile", (tuple(which.values()), step, theme), make)

    def line(self, source: Source, arguments: Arguments) -> Answer:
        """Figure: a layer over the steps."""
        recording, other = self._run(source, arguments), self._other(source, arguments)
        layer, theme = arguments.needed("layer"), _theme(arguments)
        statistic = arguments.choice("statistic", STATISTICS, STATISTICS[0])
        first, last = arguments.between("first", "last")
        optimizer = self._optimizer(recording, arguments)
        known = {name for modules in (True, False) for name in self._of(recording, statistic, optimizer, modules).names}
        one_of("layer", layer, known)

        def make() -> Any:
            from gradwatch import figures

            return figures.layer_line(
                self._short(recording),
                layer,
                statistic=statistic,
                optimizer=optimizer,
                first=first,
                last=last,
                theme=theme,
                compare=other and self._short(other),
            )

        return self._figure(recording, other, "line", (layer, statistic, optimizer, first, last, theme), make)

    def through_time(self, source: Source, arguments: Arguments) -> Answer:
        """Figure: the learning signal through time."""
        recording, step = self._run(source, arguments), arguments.whole("step")
        theme = _theme(arguments)

        def make() -> Any:
            from gradwatch import figures

            return figures.through_time(self._short(recording), step=step, theme=theme)

        return self._figure(recording, None, "through_time", (step, theme), make)

    def _figure(
        self,
        recording: LiveRecording,
        other: LiveRecording | None,
        route: str,
        key: tuple[Any, ...],
        make: Callable[[], Any],
    ) -> Answer:
        compared = None if other is None else other.serial
        return self._once(recording, route, (compared, *key), lambda: make() or {"empty": "nothing was recorded"})

    # -------------------------------------------------------------------------------------------------- the arguments

    def _run(self, source: Source, arguments: Arguments) -> LiveRecording:
        return self._known.one(source, arguments.needed("run"))

    def _other(self, source: Source, arguments: Arguments) -> LiveRecording | None:
        name = arguments.text("compare")
        return None if name is None else self._known.one(source, name)

    def _optimizer(self, recording: LiveRecording, arguments: Arguments) -> int:
        optimizer = arguments.whole("optimizer")
        if optimizer is None:
            return recording.optimizers[0] if recording.optimizers else 0
        if recording.optimizers:
            one_of("optimizer", optimizer, recording.optimizers)
        return optimizer

    def _which(self, recording: LiveRecording, arguments: Arguments) -> dict[str, Any]:
        return {
            "statistic": arguments.choice("statistic", STATISTICS, STATISTICS[0]),
            "optimizer": self._optimizer(recording, arguments),
            "rows": arguments.choice("rows", ROWS, ROWS[0]),
        }

    def _stripes(self, recording: LiveRecording, arguments: Arguments) -> Stripes | None:
        """What is asked for; None where no step has been recorded."""
        which = self._which(recording, arguments)
        if not recording.optimizers:
            return None
        return self._of(recording, which["statistic"], which["optimizer"], which["rows"] == "modules")

    def _of(self, recording: LiveRecording, statistic: str, optimizer: int, modules: bool) -> Stripes:  # noqa: FBT001
        return Stripes(recording, statistic, optimizer, modules=modules, cache=self._blocks)

    def _short(self, recording: LiveRecording) -> Shortened:
        return Shortened(recording, self._blocks)

    def _once(self, recording: LiveRecording, route: str, key: tuple[Any, ...], make: Callable[[], Any]) -> Answer:
        """The same question about the same snapshot is answered once."""
        return self._said.get((recording.serial, route, key), lambda: as_json(make()))


def _theme(arguments: Arguments) -> Theme:
    return cast(Theme, arguments.choice("theme", THEMES, "light"))


def _told(value: float) -> float | str | None:
    """A value of ``Stripes.at``: null where absent, words for what JSON has no numbers for."""
    if math.isinf(value):
        return "inf" if value > 0 else "nan"
    return None if math.isnan(value) else value
