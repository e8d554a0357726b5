"""FSDP2 and tensor parallelism on a mesh of two dimensions: one rank's bad batch is found by all, and blamed on it.

torchrun --standalone --nproc-per-node 4 examples/torchrun_fsdp2_tensor_parallel.py
"""

import torch
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import gradwatch


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" and "cuda" on GPUs
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.LayerNorm(128), nn.Linear(128, 10))
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    optimizer = torch.optim.Adam(model.parameters())

    with gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0), skip_if_nonfinite=True) as watch:
        for step in range(100):
            batch = torch.randint(len(y), (128,))[mesh["data"].get_local_rank() :: 2]  # who shares a row, shares images
            images = x[batch]
            if step == 60 and mesh["data"].get_local_rank() == 1:
                images[0, 0] = torch.nan  # a broken image
            loss = nn.functional.cross_entropy(model(images), y[batch])
            watch.loss(loss)
            loss.backward()
            optimizer.step()  # skipped by all four, because skip_if_nonfinite=True
            optimizer.zero_grad()

    found = [(incident.kind, incident.step) for incident in watch.incidents]
    skipped = [record.step for record in watch.history if record.skipped]
    by_rank: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(by_rank, (found, skipped))
    if dist.get_rank() == 0:
        print(f"found {found}, skipped {skipped}; the same on all: {by_rank == [by_rank[0]] * 4}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
