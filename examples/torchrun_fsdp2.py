"""FSDP2: each process holds a shard of every parameter, and every process knows the norms of the whole.

torchrun --standalone --nproc-per-node 2 examples/torchrun_fsdp2.py
"""

import torch
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gradwatch


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" and "cuda" on GPUs
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data)  # each process its own images
    loader = DataLoader(data, batch_size=64, sampler=sampler)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    for layer in (model[0], model[2], model[4]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters())

    # Two small all-reduces a step, and the clipping is by the norm of the whole model on every process.
    with gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0)) as watch:
        for epoch in range(6):
            sampler.set_epoch(epoch)
            for x, y in loader:
                loss = nn.functional.cross_entropy(model(x), y)
                watch.loss(loss)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    norms: list[float | None] = [None] * dist.get_world_size()
    dist.all_gather_object(norms, watch.total_norm)
    if dist.get_rank() == 0:
        print(watch.summary())
        print(f"\nlast total norm by process: {', '.join(f'{norm:.6f}' for norm in norms if norm is not None)}")
        print(f"the same on all: {len(set(norms)) == 1}; incidents: {len(watch.incidents)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
