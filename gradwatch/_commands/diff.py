"""``gradwatch diff``: which layers and incidents differ between two recorded runs, and from which step on."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from gradwatch import __version__
from gradwatch.errors import RecordError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gradwatch._report.compare import Comparison, Difference
    from gradwatch.records import Incident

SCHEMA = "gradwatch-diff/1"
MAX_LAYERS, MAX_INCIDENTS, MAX_NAMES = 100, 100, 20
_ROWS = 20
_UNREADABLE = 2
_ABOUT = (
    "Two recorded training runs, A and B, compared step by step: gradient norms of every layer before clipping, total "
    "norm, loss, learning rate, incidents. The exit code is 0 where they are alike within the tolerance, 1 where they "
    "differ, 2 where one of them cannot be read. Steps are optimizer steps, the first is 0."
)


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "diff",
        help="which layers and incidents differ between two recorded runs, and from which step on",
        description="Compare two runs that gradwatch recorded, step by step: gradient norms of every layer, total "
        "norm, loss, learning rate, incidents. The exit code is 0 where they are alike within the tolerance, 1 "
        "where they differ (also in how many steps they have), 2 where one of them cannot be read.",
    )
    for name in ("A", "B"):
        parser.add_argument(name.lower(), metavar=name, help="a log directory, an event file, or a file of JSON lines")
    parser.add_argument(
        "--tolerance",
        type=_share,
        metavar="SHARE",
        help="relative difference that still counts as alike (0.001: a thousandth)",
    )
    parser.add_argument("--first", type=_step, metavar="STEP", help="compare from this step on only")
    parser.add_argument("--last", type=_step, metavar="STEP", help="compare up to this step only")
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")
    parser.set_defaults(run=_diff)


def _diff(arguments: argparse.Namespace) -> int:
    from gradwatch._report.compare import TOLERANCE, compare
    from gradwatch.recording import read

    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    try:
        runs = [read(path) for path in (arguments.a, arguments.b)]
        for path, run in zip((arguments.a, arguments.b), runs, strict=True):
            _check(path, run.optimizers, run.skipped)
    except RecordError as error:
        return _fail(str(error), arguments)
    found = compare(runs[0], runs[1], tolerance=tolerance, first=arguments.first, last=arguments.last)
    skipped = [f"{which}: {text}" for which, run in zip("AB", runs, strict=True) for text in run.skipped]
    if arguments.json:
        from gradwatch.writers._lines import dumps

        print(dumps(_answer(found, arguments, skipped)))  # noqa: T201 - this is a command
    else:
        from gradwatch._commands.pages import print_plain
        from gradwatch._commands.terminal import open_console

        print_plain(_rendered(found, arguments, skipped), open_console())
    return 0 if found.is_alike else 1


def _check(path: str, optimizers: tuple[int, ...], skipped: tuple[str, ...]) -> None:
    if not optimizers:
        why = f": {skipped[0]}" if skipped else ""
        raise RecordError(f"gradwatch: {path!r} holds no step of a recorded run{why}")


def _fail(message: str, arguments: argparse.Namespace) -> int:
    if arguments.json:
        from gradwatch.writers._lines import dumps

        print(dumps({"schema": SCHEMA, "about": _ABOUT, "a": arguments.a, "b": arguments.b, "error": message}))  # noqa: T201
    else:
        print(message, file=sys.stderr)  # noqa: T201
    return _UNREADABLE


def verdict(found: Comparison) -> str:
    """One line: whether they are alike, else what differs and from which step on."""
    from gradwatch import wording

    if found.is_alike:
        steps, layers = wording.count(found.num_common, "step"), wording.count(found.num_layers, "layer")
        return f"alike: {steps}, {layers}, {wording.count(len(found.incidents), 'incident')} in both"
    parts = []
    if found.layers:
        parts.append(f"{len(found.layers):,} of {wording.count(found.num_layers, 'layer')}")
    if found.scalars:
        parts.append(", ".join(sorted({_SPELT.get(one.name, one.name) for one in found.scalars})))
    if num := len(found.only_a) + len(found.only_b):
        parts.append(f"{wording.count(num, 'layer')} in one run only")
    if num := len(found.incidents_a) + len(found.incidents_b) + len(found.moved):
        parts.append(wording.count(num, "incident"))
    if found.steps_a != found.steps_b:
        parts.append(f"length ({found.steps_a:,} and {wording.count(found.steps_b, 'step')})")
    elif found.num_common < found.steps_a:
        parts.append("which steps there are")
    since = "" if found.first_step is None else f" from step {found.first_step:,} on"
    return f"different{since}: {'; '.join(parts)}"


_SPELT = {"total_norm": "total norm", "clipped_norm": "norm after clipping", "lr": "learning rate"}


def _rendered(found: Comparison, arguments: argparse.Namespace, skipped: list[str]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from gradwatch import wording
    from gradwatch.writers.console import label_grid

    style = "bold green" if found.is_alike else "bold yellow"
    parts: list[RenderableType] = [Text(f"● {verdict(found)}", style=style)]
    rows = [("A", wording.plain(arguments.a, 200)), ("B", wording.plain(arguments.b, 200))]
    rows.append(("compared", f"{wording.count(found.num_common, 'common step')}, tolerance {found.tolerance:g}"))
    rows += [
        (f"only in {which}", _names(names)) for which, names in (("A", found.only_a), ("B", found.only_b)) if names
    ]
    rows += [(f"only in {which}", wording.headline(incident)) for which, incident in _alone(found)[:_ROWS]]
    rows += [("moved", f"{wording.headline(a)}; in B at step {b.step:,}") for a, b in found.moved[:_ROWS]]
    rows += [("both", wording.headline(incident)) for incident in found.incidents[:_ROWS]]
    rows += [("not read", wording.plain(text, 200)) for text in skipped[:_ROWS]]
    parts.append(label_grid(rows))
    differences = [*found.scalars, *found.layers]
    if differences:
        parts += [Text(), _table(differences)]
    return Group(*parts)


def _table(differences: list[Difference]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from gradwatch import wording

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("what differs", min_width=26)
    for header in ("from step", "A there", "B there", "steps", "at most by"):
        table.add_column(header, justify="right")
    for one in differences[:_ROWS]:
        largest = "all of it" if math.isinf(one.largest) else wording.percent(one.largest)
        name = Text(_SPELT.get(one.name, wording.name(one.name)))
        values = (wording.number(one.a), wording.number(one.b), f"{one.num_steps:,}")
        table.add_row(name, f"{one.step:,}", *values, largest)
    if len(differences) > _ROWS:
        table.add_row(f"… and {len(differences) - _ROWS:,} more; --json lists them")
    return table


def _alone(found: Comparison) -> list[tuple[str, Incident]]:
    alone = [("A", incident) for incident in found.incidents_a] + [("B", incident) for incident in found.incidents_b]
    return sorted(alone, key=lambda pair: pair[1].step)


def _names(names: tuple[str, ...]) -> str:
    from gradwatch import wording

    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""  # noqa: PLR2004
    return ", ".join(wording.name(name) for name in names[:3]) + more


def _answer(found: Comparison, arguments: argparse.Namespace, skipped: list[str]) -> dict[str, Any]:
    """Everything as one JSON object of bounded size."""
    return {
        "schema": SCHEMA,
        "about": _ABOUT,
        "gradwatch": __version__,
        "a": arguments.a,
        "b": arguments.b,
        "alike": found.is_alike,
        "verdict": verdict(found),
        "first_different_step": found.first_step,
        "tolerance": found.tolerance,
        "num_steps": {"a": found.steps_a, "b": found.steps_b, "common": found.num_common},
        "num_common_layers": found.num_layers,
        "layers_only_in_a": list(found.only_a[:MAX_LAYERS]),
        "layers_only_in_b": list(found.only_b[:MAX_LAYERS]),
        "num_layers_only_in": {"a": len(found.only_a), "b": len(found.only_b)},
        "differences_about": "`step` is the first step at which it differs, `a` and `b` the values there, `num_steps` "
        "at how many steps it does, `largest` the largest difference as a share of the larger value",
        "scalars": [vars(one) for one in found.scalars],
        "num_different_layers": len(found.layers),
        "layers": [vars(one) for one in found.layers[:MAX_LAYERS]],
        "incidents_in_both": [_incident(incident) for incident in found.incidents[:MAX_INCIDENTS]],
        "incidents_moved": [{**_incident(a), "step_in_b": b.step} for a, b in found.moved[:MAX_INCIDENTS]],
        "incidents_only_in_a": [_incident(incident) for incident in found.incidents_a[:MAX_INCIDENTS]],
        "incidents_only_in_b": [_incident(incident) for incident in found.incidents_b[:MAX_INCIDENTS]],
        "num_incidents_only_in": {"a": len(found.incidents_a), "b": len(found.incidents_b)},
        "unreadable": skipped[:MAX_NAMES],
    }


def _incident(incident: Incident) -> dict[str, Any]:
    return {
        "kind": incident.kind,
        "code": incident.code,
        "step": incident.step,
        "layers": list(incident.layers[:MAX_NAMES]),
        "severity": incident.severity.value,
        "message": incident.message,
    }


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to less than 1")
    return value


def _step(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a step: a whole number from 0")
    return value
