"""The report for programs: one JSON object of bounded size that explains itself."""

from __future__ import annotations

from typing import Any

from gradwatch import __version__, wording
from gradwatch._report.story import Story
from gradwatch.records import Incident, number_to_json

SCHEMA = "gradwatch-report/1"
MAX_INCIDENTS, MAX_LAYERS_NAMED, MAX_LAYERS, MAX_SKIPPED = 100, 20, 50, 20
ABOUT = (
    "The report on one recorded training run. Norms are L2 norms of gradients before clipping; steps are optimizer "
    "steps, the first is 0; numbers that are not finite are the strings nan, inf and -inf. The exit code is 0 where "
    "the run could be read, 2 where it could not. `gradwatch explain CODE` explains a code."
)


def answer(story: Story) -> dict[str, Any]:
    """The story as a JSON-serialisable dict."""
    summary, worst = story.summary, story.worst
    shown = wording.interesting(summary, MAX_LAYERS)
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "about": ABOUT,
        "gradwatch": __version__,
        "run": story.source,
        "state": "finished" if story.is_complete else "not finished: still running, or killed",
        "healthy": not summary.incidents,
        "verdict": story.verdict(),
        "worst_incident": None if worst is None else wording.headline(worst),
        "first_remedy": first_remedy(worst),
        "model": {
            "name": summary.model.name,
            "num_elements": summary.model.num_parameters,
            "num_parameters": summary.num_tensors,
        },
        "num_steps": summary.num_steps,
        "first_step": story.first_step,
        "last_step": story.last_step,
        "num_skipped_steps": summary.num_skipped,
        "clipping": {
            "rule": summary.clip,
            "num_clipped_steps": summary.num_clipped,
            "share": summary.num_clipped / max(1, summary.num_steps),
        },
        "depth": None if story.depth is None else {**vars(story.depth), "words": story.depth.words()},
        "last_total_norm": summary.last_total_norm,
        "cost": {"watch_seconds": summary.watch_seconds, "run_seconds": summary.run_seconds}
        if story.is_complete
        else None,
        "suppressed": list(summary.suppressed),
        "notes": list(summary.notes),
        "num_unreadable": len(story.skipped),
        "unreadable": list(story.skipped[:MAX_SKIPPED]),
        "num_layers": len(summary.layers),
        "layers_about": "at most 50, in depth order: first and last, those named in incidents, those that moved most; "
        "`worst` is the norm farthest from the median",
        "layers": [vars(layer) for layer in shown],
        "num_incidents": len(summary.incidents),
        "incidents": [incident_json(incident) for incident in summary.incidents[:MAX_INCIDENTS]],
    }
    plain: dict[str, Any] = number_to_json(data)
    return plain


def first_remedy(incident: Incident | None) -> str | None:
    """What to do first about it."""
    remedies = [remedy for cause in (incident.causes if incident else ()) for remedy in cause.remedies]
    return wording.advice(remedies[0]) if remedies else None


def incident_json(incident: Incident) -> dict[str, Any]:
    """One incident, without what no reader would read to its end."""
    data = incident.to_json()
    del data["evidence"]
    return {**data, "layers": data["layers"][:MAX_LAYERS_NAMED], "num_layers_named": len(incident.layers)}
