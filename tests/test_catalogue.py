"""Every alarm and every cause has a page that somebody can read who has never heard of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gradwatch
from gradwatch._cli import main
from gradwatch._identities import code_of
from gradwatch.catalogue import PAGES, WORDS, words_in
from gradwatch.records import CAUSE_CODES, KIND_CODES, Cause, Incident, Severity

ROOT = Path(gradwatch.__file__).parent

JARGON = (
    "activation",
    "argmax",
    "autocast",
    "backprop",
    "backward",
    "batch",
    "BatchNorm",
    "bias",
    "checkpoint",
    "clipping",
    "convolutions?",
    "cross-entropy",
    "embedding",
    "epochs?",
    "eps",
    "expert",
    "feature",
    "fine-tuning",
    "float16",
    "frozen",
    "GELU",
    "gradient",
    "GradScaler",
    "graph",
    "GRU",
    "half precision",
    "hyperparameter",
    "initialisation",
    "Kaiming",
    "LayerNorm",
    "LeakyReLU",
    "logits",
    "LoRA",
    "loss",
    "LSTM",
    "minibatch",
    "momentum",
    "NaN",
    "neuron",
    "norm",
    "normalisation",
    "optimizer",
    "outlier",
    "overfitting",
    "parameter",
    "recurrent",
    "regularisation",
    "ReLU",
    "residual",
    "sample",
    "saturated",
    "schedule",
    "SGD",
    "shortcut",
    "sigmoid",
    "slope",
    "softmax",
    "standard deviation",
    "tanh",
    "tensor",
    "unit",
    "warm-up",
    "weight",
    "Xavier",
)
"""Words that a newcomer does not know. Each that a page uses must be explained with it; the others must not occur."""

EVERYDAY = {"convolutions?"}  # said in passing, in examples that a reader can skip


def named(call: str) -> set[str]:
    """The literal names that the package's source gives to each such call, ``Cause(name=...)`` or ``Cause("...")``."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == call:
                given = [*node.args[:1], *(word.value for word in node.keywords if word.arg in ("name", "kind"))]
                found |= {value.value for value in given if isinstance(value, ast.Constant)}
    return found


def test_every_cause_and_kind_that_is_named_has_a_page():
    """Whatever the detectors find and the diagnosis names can be looked up."""
    assert named("Cause") - set(KIND_CODES) <= set(CAUSE_CODES)
    assert named("Incident") <= set(KIND_CODES)
    assert {page.name for page in PAGES.values()} == {*CAUSE_CODES, *KIND_CODES}


def test_the_search_for_names_finds_them():
    """The test above looks at something."""
    assert {"saturating_activations", "lr_too_low", "unknown"} <= named("Cause")
    assert {"exploding", "vanishing"} <= named("Incident")


def test_codes_are_unique_and_are_those_of_the_records():
    """One number stands for one thing, kinds below 200 and causes from there on."""
    codes = [*KIND_CODES.values(), *CAUSE_CODES.values()]
    assert len(codes) == len(set(codes)) == len(PAGES)
    assert all(re.fullmatch(r"GW1\d\d", code) for code in KIND_CODES.values())
    assert all(re.fullmatch(r"GW2\d\d", code) for code in CAUSE_CODES.values())
    for code, page in PAGES.items():
        assert page.code == code == (CAUSE_CODES if code.startswith("GW2") else KIND_CODES)[page.name]


def test_codes_never_change():
    """What somebody has written down once means the same for ever."""
    assert {name: KIND_CODES[name] for name in ("exploding", "vanishing", "data_outlier")} == {
        "exploding": "GW101",
        "vanishing": "GW102",
        "data_outlier": "GW110",
    }
    first = {"saturating_activations": "GW201", "lr_too_high": "GW211", "unscaled_inputs": "GW221", "unknown": "GW299"}
    assert {name: CAUSE_CODES[name] for name in first} == first


@pytest.mark.parametrize("code", PAGES)
def test_a_page_is_complete(code):
    """It says what, where, why, what to do and when it is no fault, in sentences, and leads on to pages that exist."""
    page = PAGES[code]
    for text in (page.what, page.where, page.why, *page.what_to_do, page.not_a_fault):
        assert len(text) > 5
        assert text[0].isupper() or text[0].islower()
        assert text.rstrip().endswith((".", ")"))
        assert "  " not in text
    assert not page.title.endswith(".")
    assert page.what_to_do
    assert set(page.see) <= set(PAGES) - {code}
    if code.startswith("GW2") and page.name != "unknown":
        assert re.search(r"\(\d{4}[^)]*\): .+\. ", page.paper), page.paper


@pytest.mark.parametrize("code", PAGES)
def test_no_word_stays_unexplained(code):
    """Every term of the trade that a page uses is explained at its end, or does not occur."""
    page = PAGES[code]
    explained = " ".join(word for word, _ in words_in(page))
    for word in JARGON:
        used = re.search(rf"(?<![\w.]){word}s?(?![\w(])", page.text, re.IGNORECASE)
        if used and word not in EVERYDAY:
            known = any(re.search(rf"\b{word}", key, re.IGNORECASE) for key in WORDS)
            assert known, f"{word!r} is explained nowhere"
            alias = {"parameter": "weight", "neuron": "unit"}.get(word, word)
            assert re.search(alias, explained, re.IGNORECASE), f"{code} uses {used[0]!r} and does not explain it"


def test_a_word_that_is_not_used_is_not_explained():
    """The list at the end is that of the page, not of all terms."""
    words = dict(words_in(PAGES["GW284"]))
    assert "gradient" in words
    assert "LoRA" not in words
    assert len(words) < len(WORDS) / 2


@pytest.mark.parametrize(
    ("code", "what", "action"),
    [
        ("GW101", "no lowest value", "check the sign"),
        ("GW105", "a shut gate", "gates begin half open"),
        ("GW105", "attention that is sure", "square root of the head's width"),
        ("GW107", "the weights do move, and the loss is still where it began", "look at the data"),
        ("GW202", "a weight decay that is too strong", "less weight decay"),
        ("GW251", "taken twice", "no softmax at the end"),
        ("GW251", "no lowest value", "Check the sign"),
    ],
)
def test_a_page_speaks_of_all_that_its_alarm_may_mean(code, what, action):
    """Every rule that ends in this alarm or cause finds its words on the page: what happened, and what to do."""
    page = PAGES[code]
    assert what in f"{page.what} {page.why}"
    assert any(action in step for step in page.what_to_do)


def test_causes_and_incidents_know_their_codes():
    """A custom cause has GW000; an earlier incident that is named as a cause has its own code."""
    assert Cause("lr_too_high", 0.9, "").code == "GW211"
    assert Cause("exploding", 0.9, "").code == "GW101"
    assert Cause("my own", 0.9, "").code == "GW000"
    incident = Incident("vanishing", 1, ("a",), Severity.ERROR, 1.0, 1.0, "x", (Cause("lr_too_high", 0.9, ""),))
    data = incident.to_json()
    assert (data["code"], data["causes"][0]["code"]) == ("GW102", "GW211")
    assert Incident.from_json(data) == incident
    del data["code"], data["causes"][0]["code"]  # as an earlier version has written it
    assert Incident.from_json(data) == incident


@pytest.mark.parametrize("text", ["GW102", "gw102", "vanishing", "Vanishing", " VANISHING "])
def test_any_spelling_is_understood(text):
    """Codes and names, whatever their case."""
    assert code_of(text) == "GW102"
    assert code_of("dead relu") == code_of("Dead-ReLU") == "GW104"
    assert code_of("lr_too_high") == "GW106"
    assert code_of("nothing") is None


GOLDEN = """\
GW284 · gradients_pile_up · cause
The gradients of earlier steps were not cleared
  what         The gradients grow from step to step, because each backward pass adds to what is there already.
  where        In the training loop.
  why          PyTorch adds gradients up, so that several batches can be joined into one step. Without
               zero_grad() all batches since the beginning count, most of them for weights that are long gone.
  what to do   1. Call optimizer.zero_grad() once for every optimizer.step().
               2. If you join several batches on purpose, clear after each step, and divide the loss by their
               number.
  no fault     Adding up over a fixed number of batches, with a clearing after each step.
  see also     GW101 exploding, GW211 lr_too_high
  paper        A. Paszke et al. (2019): PyTorch: an imperative style, high-performance deep learning library.
               NeurIPS
  words        backward pass: computing all gradients, from the loss back to the first layer
               batch: the samples that one step learns from
               gradient: for each weight, how the loss changes with it: what training learns from
               loss: the number that training makes small: how wrong the model is
               optimizer: what changes the weights after each backward pass, such as SGD or Adam
               weight: a number that training changes
"""


def test_explain_prints_a_page(capsys):
    """What happened, where, why, what to do, in that order; plain where there is no terminal."""
    assert main(["explain", "GW284"]) == 0
    assert capsys.readouterr().out == GOLDEN


def test_explain_is_as_wide_as_the_terminal(capsys, monkeypatch):
    """In a narrow terminal no line is longer than that, and the colours are there."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["explain", "stalled"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert all(len(re.sub(r"\x1b\[[\d;]*m", "", line)) <= 60 for line in out.splitlines())


def test_explain_names_the_namesake(capsys):
    """A kind and a cause of the same name: the kind's page, with the cause's code; and the other way round."""
    assert main(["explain", "LR_too_high"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("GW106 · lr_too_high · kind of incident\n")
    assert "GW211 is the cause of this name" in out
    assert main(["explain", "gw211"]) == 0
    assert "GW106 is the kind of incident of this name" in capsys.readouterr().out


def test_explain_without_a_name_lists_all(capsys):
    """Every code and name, one a line."""
    assert main(["explain"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^{code}\s+{page.name}\b", out, re.MULTILINE) for code, page in PAGES.items())


@pytest.mark.parametrize(
    ("what", "message"),
    [("explodnig", "did you mean 'exploding'?"), ("GW10", "did you mean 'GW1"), ("qqqq", "`gradwatch explain` lists")],
)
def test_explain_what_there_is_not(what, message, capsys):
    """An unknown name ends with 2 and names the nearest ones."""
    assert main(["explain", what]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
