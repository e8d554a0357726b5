"""What the tab's server keeps: bounded, read once, also when many ask at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import planted
import pytest
from apps import client
from boards import PLUGIN

from gradwatch.tensorboard_plugin.cache import Cache
from gradwatch.tensorboard_plugin.rings import Places
from gradwatch.tensorboard_plugin.store import Source


def test_the_least_recently_used_goes_first():
    """Never more bytes than allowed; what was used lately stays; what is too large is handed out and not kept."""
    cache, made = Cache(10, len), []

    def get(key, size=4):
        def make():
            made.append(key)
            return "x" * size

        return cache.get(key, make)

    assert [len(get(key)) for key in "abacab"] == [4] * 6  # c drives out b, and b then c
    assert made == ["a", "b", "c", "b"]
    assert cache.peek("c") is None
    assert len(get("huge", 11)) == len(get("huge", 11)) == 11
    assert made == ["a", "b", "c", "b", "huge", "huge"]
    assert len(get("a")) == 4
    assert made[-1] == "huge"


def test_many_ask_and_one_reads():
    """Eight threads that ask for the same thing at once: it is made once, and all get it."""
    cache, made, start = Cache(100, len), [], threading.Barrier(8)

    def make():
        made.append(1)
        time.sleep(0.1)
        return "value"

    def ask(_):
        start.wait()
        return cache.get("key", make)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["value"] * 8
    assert made == [1]


def test_a_failure_is_not_kept():
    """Everybody who waited is told of an error; who asks later tries again."""
    cache, asked, failing = Cache(100, len), threading.Event(), threading.Event()

    def fail():
        asked.set()
        failing.wait(5)
        raise OSError("gone")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, "key", fail)
        asked.wait(5)
        second = pool.submit(cache.get, "key", fail)
        failing.set()
        for asker in (first, second):
            with pytest.raises(OSError, match="gone"):
                asker.result()
    assert cache.get("key", lambda: "back") == "back"


def test_a_segment_is_read_once(tmp_path, monkeypatch):
    """Pictures, zooms, values and figures of a run that does not grow read each tag of TensorBoard once."""
    planted.spiky(tmp_path / "run", 6, 5_000, {100: 2})
    read = []
    original = Source.read

    def counted(self, run, tag):
        read.append(tag)
        return original(self, run, tag)

    monkeypatch.setattr(Source, "read", counted)
    asked = client(tmp_path)
    questions = [
        *(
            f"heatmap?run=run&{more}"
            for more in ("", "relative=1", "rows=modules", "first=4000", "row_first=2", "last=9")
        ),
        "value?run=run&row=block1.weight&step=4500",
        "profile?run=run&step=100",
        "line?run=run&layer=block1",
        "incidents?run=run",
        "runs",
    ]
    for question in (*questions, *questions):
        assert asked.get(f"/{PLUGIN}/{question}").status_code == 200
    assert len(read) == len(set(read))
    assert sum("/grad_norm/" in tag for tag in read) == 2


def test_a_layer_is_found_in_every_kind_of_rows():
    """A parameter, its module, a module that holds many, and a name that is only the beginning of another."""
    parameters = Places(("enc.0.weight", "enc.0.bias", "enc.1.weight", "encoder.weight", "scale"))
    assert parameters.of("enc.0.bias") == [1]
    assert parameters.of("enc.0") == [0, 1]
    assert parameters.of("enc") == [0, 1, 2]
    assert parameters.of("scale") == [4]
    assert parameters.of("enc.0.we") == []
    modules = Places(("enc.0", "enc.1", "encoder", "scale"))
    assert modules.of("enc.0.bias") == [0]
    assert modules.of("enc") == [0, 1]
    assert modules.of("nowhere.weight") == []
