"""Lightning's strategies of many processes: the callback says on every rank what it says on one."""

from __future__ import annotations

import logging
import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gradwatch
from gradwatch.records import StepRecord
from gradwatch.writers.jsonl import read_jsonl

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]
BATCH = 8
NUM_STEPS = 4
CLIP = gradwatch.ClipNorm(0.1)

OTHERS_WARNINGS = [
    "The '.*dataloader' does not have many workers",
    "The number of training batches",
    "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning 2.6.6 on torch 2.13
    ".*LightningModule.* is deprecated",
]


class Body:
    """Digits in float64, SGD with rate 1 so that the weights tell of the gradients; sharded where there is a mesh."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 10)).double()

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if strategy.__class__.__name__ == "ModelParallelStrategy":
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])
        elif strategy.__class__.__name__ == "OnCPU":
            self.net = FullyShardedDataParallel(self.net, use_orig_params=True, device_id=torch.device("cpu"))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def loader(rank: int, num_ranks: int) -> DataLoader[Any]:
    """The same rows in each step, however many ranks share them: Lightning's own sampler would shuffle."""
    images, labels = load_digits(return_X_y=True)
    rows = BATCH * NUM_STEPS
    data = TensorDataset(torch.tensor(images[:rows] / 16), torch.tensor(labels[:rows]))
    sampler: DistributedSampler[Any] = DistributedSampler(data, num_ranks, rank, shuffle=False)
    return DataLoader(data, batch_size=BATCH // num_ranks, sampler=sampler)


def fit(package: str, strategy: str, folder: Path) -> tuple[list[StepRecord], dict[str, Tensor]]:
    """Records and whole weights after a fit with this strategy, on this rank."""
    pl = import_module(package)
    logging.getLogger(package).setLevel(logging.ERROR)
    logging.getLogger(package.partition(".")[0]).setLevel(logging.ERROR)
    for text in OTHERS_WARNINGS:
        warnings.filterwarnings("ignore", text)
    rank, num_ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if num_ranks > 1:  # as torchrun does
        os.environ.update({"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(num_ranks)})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    lines = gradwatch.JSONLWriter(folder / "lines")
    watch = gradwatch.GradWatch(clip=CLIP, writers=[lines], every=1, local_norms=strategy == "ddp")
    module = type("Digits", (Body, pl.LightningModule), {})()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=num_ranks,
        strategy=_strategy(pl, strategy),
        max_epochs=1,
        use_distributed_sampler=False,
        callbacks=[watch],
        logger=pl.loggers.TensorBoardLogger(folder, name="run", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    weights: dict[str, Tensor] = {}
    module.on_fit_end = lambda: weights.update(_whole(module))
    trainer.fit(module, loader(rank, num_ranks))
    return watch.history, weights


def _strategy(pl: Any, name: str) -> Any:
    if name == "ModelParallelStrategy":
        return pl.strategies.ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    if name == "FSDPStrategy":
        return type("OnCPU", (pl.strategies.FSDPStrategy,), {})()  # Lightning bars but the class itself from the CPU
    return name


def _whole(module: Any) -> dict[str, Tensor]:
    with FullyShardedDataParallel.summon_full_params(module.trainer.strategy.model):
        named = {name.replace("_fsdp_wrapped_module.", ""): p.detach() for name, p in module.named_parameters()}
        return {name: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for name, p in named.items()}


@pytest.mark.parametrize("strategy", ["ddp", "ModelParallelStrategy", "FSDPStrategy"])
@pytest.mark.parametrize("package", PACKAGES)
def test_every_rank_says_what_one_process_says(package, strategy, tmp_path):
    """Norms of all layers, clipped weights, and one log in one place, written by the first rank."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "together").mkdir()
    expected, expected_weights = fit(package, "auto", tmp_path / "alone")
    assert [record.step for record in expected] == list(range(NUM_STEPS))
    assert all(record.clipped for record in expected)
    for records, weights in on_ranks(fit, package, strategy, tmp_path / "together", limit=120):
        assert [record.step for record in records] == list(range(NUM_STEPS))
        for record, other in zip(records, expected, strict=True):
            assert record.names == other.names
            assert record.grad_norm == pytest.approx(other.grad_norm, rel=1e-6)
            assert record.total_norm == pytest.approx(other.total_norm, rel=1e-6)
            assert record.clipped_norm == pytest.approx(other.clipped_norm, rel=1e-6)
        close = {"rtol": 1e-6, "atol": 1e-12}
        if strategy == "FSDPStrategy":  # its precision plugin knows no float64
            close = {"rtol": 1e-5, "atol": 1e-7, "check_dtype": False}
        torch.testing.assert_close(weights, expected_weights, **close)
    assert len(list((tmp_path / "together" / "run").glob("events.*"))) == 1
    run = read_jsonl(tmp_path / "together" / "lines")
    assert [record.step for record in run.records] == list(range(NUM_STEPS))
    assert run.sessions == (0,)
    if strategy == "ddp":
        _has_local_norms(run.records)


def _has_local_norms(records: tuple[StepRecord, ...]) -> None:
    """From the second step on: the wrapper is found round the LightningModule, and what it averages is its mean."""
    assert [record.local_norms is not None for record in records] == [False] + [True] * (NUM_STEPS - 1)
    for record in records[1:]:
        first, second = record.local_norms.norms
        assert record.local_norms.ranks == (0, 1)
        assert abs(first - second) / 2 < record.total_norm < (first + second) / 2
