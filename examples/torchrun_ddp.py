"""DistributedDataParallel: every process opens the watch, the first one alone writes and prints.

torchrun --standalone --nproc-per-node 2 examples/torchrun_ddp.py
"""

import torch
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gradwatch


def main() -> None:
    dist.init_process_group("gloo")  # "nccl" on GPUs
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    sampler: DistributedSampler[tuple[torch.Tensor, ...]] = DistributedSampler(data)  # each process its own images
    loader = DataLoader(data, batch_size=64, sampler=sampler)

    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    optimizer = torch.optim.Adam(model.parameters())

    # The gradients at the step are the mean over all processes already: watching them sends nothing.
    with gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0)) as watch:
        for epoch in range(6):
            sampler.set_epoch(epoch)
            for x, y in loader:
                loss = nn.functional.cross_entropy(model(x), y)
                watch.loss(loss)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    if dist.get_rank() == 0:
        print(watch.summary())
        print(f"\n{dist.get_world_size()} processes, {watch.step} steps; incidents: {len(watch.incidents)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
