"""Those who drive many processes themselves: accelerate and the HF Trainer are watched, DeepSpeed is told apart."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import agree, same_weights
from plans import Placed, Plan, alone, digits_net, together
from ranks import on_ranks
from torch import Tensor, nn
from torch import distributed as dist

import gradwatch
from gradwatch.errors import GradwatchWarning


def accelerated(model: nn.Module) -> Placed:
    """As accelerate prepares it for two processes on CPUs."""
    from accelerate import Accelerator

    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"})
    prepared = Accelerator(cpu=True).prepare_model(model)
    assert isinstance(prepared, nn.parallel.DistributedDataParallel)
    return Placed(prepared, dist.get_rank(), dist.get_world_size())


def test_accelerate_is_watched():
    """The wrapped model has the figures and names of the plain one."""
    plan = Plan(clip=gradwatch.ClipNorm(0.3))
    reference = alone(plan)
    ranks = on_ranks(together, accelerated, plan)
    agree(ranks, reference.whole)
    same_weights(ranks, reference.weights)


class WithLoss(nn.Module):
    """As the HF Trainer wants a model: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = digits_net().float()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``[batch, 64]`` and ``[batch]``."""
        return {"loss": nn.functional.cross_entropy(self.net(x), labels)}


def trained_by_hf(folder: Path) -> list[Any]:
    """The records of four steps of the Trainer, which clips by itself."""
    warnings.simplefilter("default")  # of the libraries that the Trainer brings
    warnings.simplefilter("error", GradwatchWarning)
    from sklearn.datasets import load_digits
    from transformers import Trainer, TrainingArguments

    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "HF_HUB_OFFLINE": "1"})
    images, labels = load_digits(return_X_y=True)
    rows = [
        {"x": torch.tensor(image / 16, dtype=torch.float32), "labels": int(label)}
        for image, label in zip(images[:64], labels[:64], strict=True)
    ]
    model = WithLoss()
    arguments = TrainingArguments(
        output_dir=str(folder / str(dist.get_rank() if dist.is_initialized() else 0)),
        per_device_train_batch_size=4,
        max_steps=4,
        max_grad_norm=0.05,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    with gradwatch.watch(model, writers=[]) as watch:
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    return watch.history


def test_the_trainer_of_hugging_face_is_watched(tmp_path):
    """The norms before its clipping are the same on both ranks, and so are those after it."""
    first, second = on_ranks(trained_by_hf, tmp_path, limit=120)
    assert [record.step for record in first] == [0, 1, 2, 3]
    assert all(record.total_norm > 0.1 for record in first)
    assert [record.clipped_norm for record in first] == pytest.approx([0.05] * 4, rel=1e-3)
    for one, other in zip(first, second, strict=True):
        assert one.names == other.names
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-6)


@pytest.mark.parametrize("mark", ["ds_id", "_hp_mapping"])
def test_deepspeed_is_said_to_be_unwatched(mark):
    """One clear warning at the start: DeepSpeed marks the parameters whose gradients it takes away."""
    model = digits_net()
    for parameter in model.parameters():
        setattr(parameter, mark, 0)
    with pytest.warns(GradwatchWarning) as caught:
        watch = gradwatch.watch(model, writers=[])
    with pytest.warns(GradwatchWarning, match="saw no optimizer step"):
        watch.close()
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "DeepSpeed" in text
    assert "nothing will be recorded" in text
    assert "get_global_grad_norm" in text
