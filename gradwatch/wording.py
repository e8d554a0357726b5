"""Incidents and runs in plain words: the pieces that the terminal, the report and ``summary()`` share.

Every text that comes from outside (layer names, messages, evidence) passes through :func:`plain` or :func:`code`
once, so that no name can break a terminal, a table or a page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from gradwatch.records import Cause, Incident, LayerSummary, Remedy, RunSummary, Unavailable

NAME_LIMIT = 48
TEXT_LIMIT = 1000
MAX_ROWS = 20

_CONFIDENT, _LIKELY = 0.8, 0.5
_CUSTOM = "GW000"  # nothing that could be looked up
_PLAIN_FROM, _PLAIN_TO, _WHOLE_FROM = 1e-3, 1e5, 1e3
_MINUTE, _HOUR = 60.0, 3600.0
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~$&!]")
_PARAMETER = re.compile(r"(^|\.)(weight|bias)\w*$")
_SPELT = {"lr": "learning rate", "relu": "ReLU"}
_LISTED_NAMES = 3
_MUCH_NOISE = 4.0
"""A noise scale so many times the batch leaves at least 80 % of a linear gain; its inverse, at most 20 %."""


def plain(text: str, limit: int = TEXT_LIMIT) -> str:
    """``text`` on one line, at most ``limit`` characters, without anything that steers a terminal."""
    line = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    line = " ".join(line.split())
    return line if len(line) <= limit and len(text) <= 4 * limit else f"{line[: limit - 1]}…"


def code(snippet: str) -> list[str]:
    """The lines of a snippet with their indentation, without anything that steers a terminal."""
    lines = snippet[:TEXT_LIMIT].expandtabs(4).splitlines()
    return ["".join(char if char.isprintable() else " " for char in line).rstrip() for line in lines]


def name(text: str, limit: int = NAME_LIMIT) -> str:
    """A layer's name, its middle left out where it is long: both ends tell layers apart."""
    if len(text) > limit:
        tail = limit * 2 // 3
        text = f"{text[: limit - tail - 1]}…{text[-tail:]}"
    return plain(text, limit)


def markdown(text: str) -> str:
    """``text`` (already plain) so that Markdown and HTML show it as it is."""
    return _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", text)


def number(value: float) -> str:
    """Three digits that count: ``0.262``, ``40,000``, ``3.2e-12``, ``NaN``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value) or value == 0:
        return f"{value:g}"
    size = abs(value)
    if size < _PLAIN_FROM or (size >= _PLAIN_TO and value != int(value)) or size >= _PLAIN_TO * 1e3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.0f}" if size >= _WHOLE_FROM else f"{value:.3g}"


def percent(share: float) -> str:
    """A share between 0 and 1: ``26 %``, ``0.9 %``; never 0 or 100 where it is not exactly so."""
    hundredths = 100 * share
    if 0 < hundredths < 0.1:  # noqa: PLR2004
        return "under 0.1 %"
    if 99.5 <= hundredths < 100:  # noqa: PLR2004
        return "over 99 %"
    return f"{hundredths:.1f} %" if 0 < hundredths < 9.95 else f"{hundredths:.0f} %"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """``12 ms``, ``0.21 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 0.1:  # noqa: PLR2004
        return f"{1e3 * seconds:.2g} ms"
    if seconds < _MINUTE:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    if seconds < _HOUR:
        return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"
    return f"{int(seconds // _HOUR)} h {int(seconds % _HOUR // _MINUTE)} min"


def count(num: int, noun: str) -> str:
    """``1 step``, ``1,200 steps``."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def ranks_in_words(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 0, 1 and 3``."""
    *first, last = map(str, ranks)
    return f"ranks {', '.join(first)} and {last}" if first else f"rank {last}"


def where(layers: tuple[str, ...], num_layers: int = 0) -> str:
    """Layers in a few words: ``fc0 … fc5 (6 of 13 layers)``; the worst first where there is no natural range."""
    if not layers:
        return ""
    shown = [name(layer) for layer in layers[:_LISTED_NAMES]]
    if len(layers) > _LISTED_NAMES:
        ordered = sorted(layers, key=_natural)
        if ordered in (list(layers), list(layers[::-1])):
            shown = [f"{name(ordered[0])} … {name(ordered[-1])}"]
    text = ", ".join(shown)
    if num_layers >= len(layers) > 1:
        return f"{text}{_and_more(layers, shown)} ({len(layers):,} of {count(num_layers, _noun(layers))})"
    return f"{text}{_and_more(layers, shown)}"


def headline(incident: Incident) -> str:
    """The first line: ``vanishing · step 4 · fc0 … fc5 (6 of 13 layers) · GW102``."""
    place = where(incident.layers, incident.num_layers)
    parts = [title(incident), f"step {incident.step:,}", place, incident.code]
    return " · ".join(part for part in parts if part)


def title(incident: Incident) -> str:
    """The kind in words: ``dead relu``."""
    return _words(incident.kind)


def confidence(cause: Cause) -> str:
    """``confident``, ``likely`` or ``possible``."""
    if cause.confidence >= _CONFIDENT:
        return "confident"
    return "likely" if cause.confidence >= _LIKELY else "possible"


def because(cause: Cause) -> str:
    """``saturating activations (confident): 12 sigmoid layers; … · GW201``."""
    evidence, known = plain(cause.evidence), cause.code != _CUSTOM
    text = f"{_words(cause.name)} ({confidence(cause)})" + (f": {evidence}" if evidence else "")
    return f"{text} · {cause.code}" if known else text


def advice(remedy: Remedy) -> str:
    """What to do, and why it helps."""
    action, reason = plain(remedy.action).rstrip("."), plain(remedy.reason).rstrip(".")
    return f"{action}: {reason}" if reason else action


def gap(unavailable: Unavailable) -> str:
    """``activations under torch.compile, because …``."""
    return f"{plain(unavailable.what)}, because {plain(unavailable.because)}"


def verdict(summary: RunSummary) -> str:
    """The one closing line: what was watched, what was found, what it cost."""
    if summary.num_steps == 0:
        return f"gradwatch: no optimizer step of {name(summary.model.name)} was seen, so nothing was measured"
    line = f"gradwatch: {count(summary.num_steps, 'step')} of {watched(summary)}: {found(summary)}; {cost(summary)}"
    code = next((incident.code for incident in summary.incidents if incident.code != _CUSTOM), "")
    return f"{line}; `gradwatch explain {code}` tells more" if code else line


def watched(summary: RunSummary) -> str:
    """``MLP (26 parameter tensors, 101,770 elements)``."""
    num_tensors = summary.num_tensors or len(summary.layers)
    size = f"{count(num_tensors, 'parameter tensor')}, {count(summary.model.num_parameters, 'element')}"
    return f"{name(summary.model.name)} ({size})"


def found(summary: RunSummary) -> str:
    """``nothing found``, or how many incidents and which one came first; and what was suppressed."""
    text = _told(summary)
    if not summary.suppressed:
        return text
    return f"{text}; suppressed: {plain('; '.join(summary.suppressed))}"


def _told(summary: RunSummary) -> str:
    if not summary.incidents:
        if summary.notes:
            return f"no incident, but {count(len(summary.notes), 'warning')}"
        return "nothing found"
    first = summary.incidents[0]
    place = where(first.layers, first.num_layers)
    text = f"{title(first)} at step {first.step:,}" + (f" in {place}" if place else "")
    if len(summary.incidents) == 1:
        return f"1 incident, {text}"
    return f"{count(len(summary.incidents), 'incident')}, first: {text}"


def cost(summary: RunSummary) -> str:
    """``watching took 0.21 s, 0.9 % of the run``."""
    text = f"watching took {duration(summary.watch_seconds)}"
    if summary.run_seconds <= 0:
        return text
    return f"{text}, {percent(summary.watch_seconds / summary.run_seconds)} of the run"


def facts(summary: RunSummary) -> list[tuple[str, str]]:
    """Label and text of what else a summary says: clipping, skipped steps, total norm, notes, cost."""
    steps = count(summary.num_steps, "step")
    share = percent(summary.num_clipped / max(1, summary.num_steps))
    clipped = f"{summary.num_clipped:,} of {steps} clipped ({share})"
    rows = [
        ("clipping", f"{plain(summary.clip)}: {clipped}" if summary.clip else f"none by gradwatch; {clipped}"),
        ("total norm", f"{number(summary.last_total_norm)} at the last step, before clipping"),
    ]
    if summary.num_skipped:
        rows.append(("skipped", f"{summary.num_skipped:,} of {steps}: {_why_skipped(summary)}"))
    rows += [("suppressed", plain(text)) for text in summary.suppressed]
    rows += [("local norms", plain(text)) for text in summary.local_norms]
    rows += [("note", plain(note)) for note in summary.notes]
    rows.append(("cost", cost(summary)))
    return [*rows, ("thinned", plain(summary.thinned, 300))] if summary.thinned else rows


def noise_scale_in_words(noise_scale: float | None, num_ranks: int, spread: float) -> str:
    """What a gradient noise scale means for the size of the batch, so that one knows what to do.

    The number of steps that training takes is in proportion to ``1 + noise scale / batch``, both in batches of one rank
    (McCandlish et al. 2018, arXiv:1812.06162, section 2).

    Args:
        noise_scale: In batches of one rank; None for not known yet.
        num_ranks: The present batch, in the same unit.
        spread: Standard deviation over mean of the local norms at the last step.
    """
    norms = f"the {count(num_ranks, 'rank')}' own norms differ by {percent(spread)} at the last step"
    if math.isnan(spread):
        norms = f"not all of the {count(num_ranks, 'rank')}' own norms are finite at the last step"
    if noise_scale is None:
        return (
            f"gradient noise scale: not known yet, for it takes more steps to tell the signal from the noise; {norms}"
        )
    ratio = noise_scale / num_ranks
    gain = f"with twice the batch about {percent((1 + ratio / 2) / (1 + ratio))} of the steps would do"
    if ratio >= _MUCH_NOISE:
        advice = f"far above the {num_ranks} in use: more ranks or larger batches pay off almost linearly ({gain})"
    elif ratio <= 1 / _MUCH_NOISE:
        advice = f"far below the {num_ranks} in use: more ranks or larger batches bring little ({gain})"
    else:
        advice = f"near the {num_ranks} in use: more ranks or larger batches pay off in part ({gain})"
    return f"gradient noise scale ≈ {number(noise_scale)} batches of one rank, {advice}; {norms}"


def _why_skipped(summary: RunSummary) -> str:
    held_back, overflows = summary.num_held_back, summary.num_skipped - summary.num_held_back
    if not held_back:
        return "a GradScaler found an overflow"
    ours = "the total norm was not finite (skip_if_nonfinite)"
    return f"{ours}, {held_back:,} times; a GradScaler found an overflow, {overflows:,} times" if overflows else ours


def interesting(summary: RunSummary, limit: int = MAX_ROWS) -> tuple[LayerSummary, ...]:
    """At most ``limit`` layers in depth order: first and last, those named in incidents, those that moved most."""
    layers = summary.layers
    if len(layers) <= limit:
        return layers
    blamed: dict[str, int] = {}
    for incident in summary.incidents:
        for layer in incident.layers:
            blamed.setdefault(layer, len(blamed))
            blamed.setdefault(layer.rpartition(".")[0], len(blamed))  # of a parameter its module

    def rank(index: int) -> tuple[int, float]:
        if index in (0, len(layers) - 1):
            return 0, 0
        places = [blamed[prefix] for prefix in _prefixes(layers[index].name) if prefix in blamed]
        return (1, min(places)) if places else (2, -_deviation(layers[index]))

    return tuple(layers[index] for index in sorted(sorted(range(len(layers)), key=rank)[:limit]))


def _deviation(layer: LayerSummary) -> float:
    """Decades between the worst and the median norm; infinite for a non-finite one."""
    if not math.isfinite(layer.worst):
        return math.inf if layer.worst_step >= 0 else 0.0
    return abs(math.log10(layer.worst / layer.median)) if layer.worst > 0 and layer.median > 0 else 0.0


def _prefixes(parameter: str) -> Iterable[str]:
    """The parameter itself, its module, that one's parent and so on."""
    while parameter:
        yield parameter
        parameter = parameter.rpartition(".")[0]


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(digits or 0), letters) for letters, digits in re.findall(r"(\D*)(\d*)", text[:200])]


def _and_more(layers: tuple[str, ...], shown: list[str]) -> str:
    return f" and {len(layers) - len(shown):,} more" if 1 < len(shown) < len(layers) else ""


def _noun(layers: tuple[str, ...]) -> str:
    """What is counted: a layer has a weight and a bias, and each of these is a parameter."""
    return "parameter" if any(_PARAMETER.search(layer[-200:]) for layer in layers) else "layer"


def _words(identifier: str) -> str:
    words = (_SPELT.get(word, word) for word in identifier.split("_"))
    return plain(" ".join(words), NAME_LIMIT)
