"""One line round a plain training loop: each layer's gradient is watched at every optimizer step.

python examples/plain_torch.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradwatch


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters())

    # logdir="runs/digits" would write TensorBoard logs, too.
    with gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0)) as watch:
        for _ in range(200):
            batch = torch.randint(len(y), (128,))
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            watch.loss(loss)  # optional: a detector that knows the loss says more
            loss.backward()
            optimizer.step()  # measured, checked and clipped right before this
            optimizer.zero_grad()

    print(watch.summary())
    accuracy = (model(x).argmax(dim=1) == y).float().mean()
    print(f"\n{accuracy:.0%} of the digits are read right; incidents: {len(watch.incidents)}")


if __name__ == "__main__":
    main()
