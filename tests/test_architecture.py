"""The house keeps its order: who may import whom, what stays light, and that every test says what holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gradwatch

ROOT = Path(gradwatch.__file__).parent

FLOORS: dict[int, set[str]] = {
    0: {
        "errors",
        "records",
        "_probes",
        "_commands",
        "_figures",
        "_report",
        "_sources",
        "tensorboard_plugin",
        "tensorboard_plugin.metadata",
        "tensorboard_plugin.refused",
        "_distributed_parts",
        "_price",
        "_transfer",
        "_decades",
        "catalogue.page",
    },
    1: {
        "_distributed_roster",
        "_distributed_world",
        "_activation_kinds",
        "_budget",
        "_loans",
        "_probes.module_hook",
        "_sizes",
        "_voice",
        "_listeners",
        "_horizon",
        "_probes.node_hook",
        "_probes.unroll",
        "_identities",
        "_summary_json",
        "_sources.event_records",
        "catalogue.*",
        "_rows",
        "_staleness",
        "_aggregates",
        "_memory",
        "_pool",
        "tensorboard_plugin.cache",
        "_baselines",
        "_backward_order",
        "_probes.graph",
        "causes",
        "causes._guards",
        "causes._remedies",
        "wording",
        "writers",
    },
    2: {
        "_bulletin",
        "_distributed_consent",
        "_noise_scale",
        "_probes.activations",
        "_probes.saved",
        "_probes.operations",
        "_probes.bracket",
        "causes.*",
        "_probes.loops",
        "_probes.sequence_sample",
        "catalogue",
        "suppression",
        "_audit",
        "_loss",
        "_norms",
        "_steps",
        "_depth",
        "_weights",
        "_precedence",
        "_sources.event_files",
        "_figures.style",
        "_sources.sessions",
        "_sources.tables",
        "_outlets",
        "tensorboard_plugin.arguments",
        "tensorboard_plugin.store",
        "writers.*",
    },
    3: {
        "_sources.protocol",
        "_probes.calls",
        "_scene",
        "_probes.alertness",
        "_probes.suspects",
        "diagnosis",
        "_probes.fused_rnn",
        "_probes.hidden_activations",
        "_taps",
        "_statistics",
        "_host_sampling",
        "tensorboard_plugin.answers",
        "tensorboard_plugin.rings",
    },
    4: {
        "_sources.memory",
        "_sources.packed",
        "_figures.series",
        "_probes.birthplace",
        "_signal",
        "_probes.through_time",
        "_distributed",
        "_distributed_buckets",
        "_layout",
        "_sampling",
        "tensorboard_plugin.assets",
        "clipping",
    },
    5: {
        "_sources.unpacked",
        "_figures.curve",
        "_figures.fit",
        "_figures.grid",
        "_figures.time",
        "_before_clip",
        "_fused",
        "_probes.forward",
        "_probes.sighting",
        "_commands.terminal",
        "_commands.pages",
        "tensorboard_plugin.live",
        "detectors._base",
    },
    6: {
        "detectors.*",
        "_unpacking",
        "_sources.opened",
        "_figures.depth",
        "_figures.heatmap",
        "_figures.finding",
        "tensorboard_plugin.runs",
        "tensorboard_plugin.stripes",
    },
    7: {"detectors", "_figures.line", "_measurement"},
    8: {
        "recording",
        "figures",
        "_distributed_local",
        "_report.embedded",
        "_report.story",
        "tensorboard_plugin.heatmap",
        "tensorboard_plugin.shortened",
        "_intervention",
        "_judges",
        "_partial",
        "_probes.loss_reader",
        "_probes.schedule",
        "thresholds",
    },
    9: {
        "_notebook",
        "_report.answer",
        "_report.compare",
        "_report.terminal",
        "_ledger",
        "_options",
        "_replay",
        "_tracks",
        "tensorboard_plugin.routes",
    },
    10: {"_arrivals", "_report.page", "tensorboard_plugin.plugin"},
    11: {"_measuring", "tensorboard_plugin.loader"},
    12: {"_monitor"},
    13: {"_readout"},
    14: {"_context", "lightning"},
    15: {"_demo", "_commands.explain", "_commands.replay", "_commands.report", "_commands.diff"},
    16: {"_cli"},
    17: {"__main__", ""},
}
"""A module imports only from lower floors; ``writers.*`` are all in that folder, and may import its private helpers."""

NEVER: dict[str, set[str]] = {
    "records": {"torch", "gradwatch"},
    "tensorboard_plugin.metadata": {"torch", "gradwatch"},
    "tensorboard_plugin": {"torch"},
    "detectors": {"torch", "lightning", "tensorboard"},
    **{
        module: {"torch"}
        for module in (
            "_baselines",
            "_decades",
            "_depth",
            "_horizon",
            "_memory",
            "_noise_scale",
            "_pool",
            "_precedence",
            "_scene",
            "_signal",
            "_weights",
        )
    },
    **{module: {"torch"} for module in ("_judges", "_replay", "suppression", "thresholds")},
    "recording": {"torch", "tensorboard", "plotly"},
    "_sources": {"torch", "plotly"},
    "_figures": {"torch", "plotly", "tensorboard"},
    "_report": {"torch", "tensorboard"},
    "catalogue": {"torch", "numpy"},
    "_backward_order": {"torch"},
    "causes": {"torch", "lightning", "tensorboard"},
    "diagnosis": {"torch", "lightning", "tensorboard"},
    "_statistics": {"torch.distributed", "logging"},
    "_monitor": {"lightning", "pytorch_lightning", "tensorboard", "gradwatch.writers.console"},
    "_context": {"gradwatch.lightning", "lightning", "pytorch_lightning"},
    "lightning": {"gradwatch._context"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name below ``gradwatch``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(path: Path, *, also_lazy: bool = True) -> set[str]:
    """What a file imports, type-checking blocks left out; without ``also_lazy`` only at the top level."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if also_lazy else iter(tree.body)
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    names = set()
    for node in nodes:
        if node in guarded:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(module: str) -> int:
    """The floor that a module stands on."""
    package = module.partition(".")[0]
    for number, members in FLOORS.items():
        if module in members or (module != package and f"{package}.*" in members):
            return number
    raise AssertionError(f"gradwatch.{module} has no floor yet: give it one in FLOORS")


def ours(names: set[str]) -> set[str]:
    """Of the imported names those that are modules of this package."""
    known = modules()
    return {name.removeprefix("gradwatch.") for name in names if name.removeprefix("gradwatch.") in known} - {""}


@pytest.mark.parametrize("module", [name for name in modules() if name])
def test_imports_go_downstairs(module):
    """A module imports only from lower floors."""
    for imported in ours(imports(modules()[module])):
        private_helper = module.startswith("writers.") and imported.startswith("writers._")
        assert private_helper or floor(imported) < floor(module), f"{module} imports {imported}"


def test_writers_know_neither_each_other_nor_the_measuring():
    """A writer imports records, words and its private helpers, and no other destination."""
    allowed = {"errors", "records", "_summary_json", "_voice", "wording", "writers", "tensorboard_plugin"}
    allowed |= {"tensorboard_plugin.metadata"}
    for module, path in modules().items():
        if module.startswith("writers."):
            others = {name for name in ours(imports(path)) if not name.startswith("writers._")}
            assert others <= allowed, module


@pytest.mark.parametrize("module", NEVER)
def test_rooms_stay_clean(module):
    """What a room must never import, it does not."""
    room = {path for name, path in modules().items() if name == module or name.startswith(f"{module}.")}
    for imported in set().union(*map(imports, room)):
        assert not any(imported == n or imported.startswith(f"{n}.") for n in NEVER[module]), (module, imported)


def test_only_transfer_crosses_to_the_host():
    """No other measuring module takes values off a tensor."""
    crossings = {"item", "cpu", "numpy", "tolist"}
    for module, path in modules().items():
        if module == "_transfer" or not any(n == "torch" or n.startswith("torch.") for n in imports(path)):
            continue
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        allowed = {"tolist"} if module == "_norms" else set()  # of numpy arrays that look() has handed out
        assert not (calls & crossings) - allowed, module


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_gradwatch_stays_light():
    """``import gradwatch`` imports neither torch nor anything heavy, and naming the public names does not either."""
    heavy = "torch numpy rich tensorboard matplotlib lightning"
    out = run_python(
        f"import sys, gradwatch; dir(gradwatch); print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    assert out.strip() == "[]"


def test_the_lightness_test_can_fail():
    """Using a public name does import torch: the test above would see it."""
    assert run_python("import sys, gradwatch; gradwatch.watch; print('torch' in sys.modules)").strip() == "True"


def test_every_public_name_is_there():
    """``__all__`` is complete, importable, and its lazy table names no more and no less."""
    assert set(gradwatch._HOMES) | {"__version__"} == set(gradwatch.__all__)
    for name in gradwatch.__all__:
        assert getattr(gradwatch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'wacth'"):
        _ = gradwatch.wacth


def test_every_test_says_what_holds():
    """Each test function has a docstring."""
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_monitor_stays_small():
    """The core may only sequence, so it stays within 250 lines."""
    assert len(modules()["_monitor"].read_text().splitlines()) <= 250
