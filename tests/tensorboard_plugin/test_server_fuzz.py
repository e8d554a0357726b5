"""Thousands of arguments that make no sense: an answer or a refusal in words, never an error of the server."""

from __future__ import annotations

import json
import random
import urllib.parse

import pytest
from apps import client
from boards import PLUGIN
from planted import HOSTILE, HOSTILE_RUN

from gradwatch.tensorboard_plugin.plugin import ARGUMENTS

RUNS = ["sick", "blown_up", "recurrent", "two", "spikes", "resumed", "killed", HOSTILE_RUN]
RUBBISH = [
    *HOSTILE,
    "../../../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "file:///etc/passwd",
    "%00",
    "%2e%2e%2f",
    "\ud7ff\ue000\U0010ffff",
    "NaN",
    "-0",
    "1_000",
    "0x10",
    "1e309",
    "١٢٣",
    "9" * 18,
    "9" * 400,
    "null",
    "[]",
    "{}",
    "true",
    "' OR 1=1 --",
    "${jndi:ldap://x}",
    "{{7*7}}",
    " 1",
    "1\n",
    "a" * 5000,
]
SENSIBLE = {
    "run": RUNS,
    "compare": RUNS,
    "statistic": ["grad_norm", "num_nonfinite", "grad_max", "weight_norm", "update_ratio", "scalars", "loss"],
    "optimizer": ["0", "0", "1", "2", "-1"],
    "rows": ["parameters", "modules", "layers"],
    "relative": ["0", "1", "2"],
    "theme": ["light", "dark", "blue"],
    "layer": ["0.weight", "0", "head.weight", "block1", "block1.weight", HOSTILE[0], HOSTILE[3]],
    "row": ["0.weight", "0", "head.weight", "block1", "block1.weight", HOSTILE[0], HOSTILE[3]],
}
NUMBERS = ["0", "1", "7", "25", "39", "700", "1500", "1999", "2000", "123456789012345678", "-1", "1.5", "00012"]
BYTES = ["%ff", "%c3%28", "%ed%a0%80", "%00", "&", "=", "run", "sick", ";", "+", "%"]


def query(chance: random.Random, allowed: tuple[str, ...]) -> list[tuple[str, str]]:
    """Mostly sensible, so that a single wrong value gets as far as it can."""
    pairs = []
    for name in allowed:
        if chance.random() < (0.05 if name == "run" else 0.4):
            continue
        good = SENSIBLE.get(name, NUMBERS)
        pairs.append((name, chance.choice(RUBBISH if chance.random() < 0.1 else good)))
    if chance.random() < 0.05:
        pairs.append((chance.choice(RUBBISH), chance.choice(RUBBISH)))
    if pairs and chance.random() < 0.03:
        pairs.append(chance.choice(pairs))
    chance.shuffle(pairs)
    return pairs


def seeded(seed: int) -> random.Random:
    """The same questions each time."""
    return random.Random(seed)  # noqa: S311


def judge(status: int, body: bytes, question: object) -> None:
    """It is JSON: an answer without an error, or a refusal that says why."""
    assert status in {200, 400}, (status, question)
    data = json.loads(body, parse_constant=pytest.fail)
    assert ("error" in data) == (status == 400), (data, question)
    if status == 400:
        assert isinstance(data["error"], str)
        assert 0 < len(data["error"]) < 2000


def test_ten_thousand_arguments_in_process(runs):
    """12,000 combinations of sensible, wrong and hostile arguments on every route: never a 500, never broken JSON."""
    asked, chance, counts = client(runs.logdir), seeded(20260101), {200: 0, 400: 0}
    routes = [*ARGUMENTS, "heatmap", "value", "value", "names"]
    for _ in range(12_000):
        route = chance.choice(routes)
        pairs = query(chance, ARGUMENTS[route])
        answer = asked.get(f"/{PLUGIN}/{route}", query_string=urllib.parse.urlencode(pairs))
        judge(answer.status_code, answer.data, (route, pairs))
        counts[answer.status_code] += 1
    assert min(counts.values()) > 2_000, counts


def test_raw_bytes_in_process(runs):
    """Queries that are no text at all, and paths that are no routes: 200, 400 or 404."""
    asked, chance = client(runs.logdir), seeded(7)
    for _ in range(1_000):
        raw = "".join(chance.choice(BYTES) for _ in range(12))
        route = chance.choice([*ARGUMENTS, "static/x", "nothing", "index.js", "plotly.min.js"])
        answer = asked.open(f"/{PLUGIN}/{route}", query_string=raw, method=chance.choice(["GET", "HEAD", "POST"]))
        assert answer.status_code in {200, 400, 404, 405}, (route, raw)


def test_hundreds_of_arguments_over_the_socket(any_board):
    """The same against the real servers, with both loaders."""
    chance = seeded(99)
    for _ in range(200):
        route = chance.choice([*ARGUMENTS])
        pairs = query(chance, ARGUMENTS[route])
        status, body, _ = any_board.ask(f"{PLUGIN}/{route}?{urllib.parse.urlencode(pairs)}")
        judge(status, body, (route, pairs))
