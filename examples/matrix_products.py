"""A hundred matrix products: why gradients explode and vanish, and what gradwatch says about it.

Each matrix multiplies the length of a vector by its gain, and the learning signal on its way back, too: after a hundred
of them a gain of 1.25 has become 1.25^100 = 5 billion, a gain of 0.8 has become 0.8^100 = one 5-billionth.

    python examples/matrix_products.py
"""

import torch
from torch import Tensor, nn

import gradwatch

NUM_MATRICES = 100
SIZE = 32


class Product(nn.Module):
    """y = W_100 ... W_2 W_1 x, each W an orthogonal matrix times the gain (and a bias that starts at zero)."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        matrices = [nn.Linear(SIZE, SIZE) for _ in range(NUM_MATRICES)]
        for matrix in matrices:
            nn.init.orthogonal_(matrix.weight, gain)
            nn.init.zeros_(matrix.bias)
        self.w = nn.ModuleList(matrices)

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.w:
            x = matrix(x)
        return x


def main() -> None:
    for gain in (1.0, 1.25, 0.8):
        torch.manual_seed(0)
        print(f"\ngain {gain}: {gain}^{NUM_MATRICES} = {gain**NUM_MATRICES:.2g}", flush=True)
        model = Product(gain)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        x, target = torch.randn(64, SIZE), torch.randn(64, SIZE)
        with gradwatch.watch(model) as watch:  # incidents appear as they happen
            for _ in range(10):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), target)
                if not loss.isfinite():
                    break  # the first step has ruined the weights
                watch.loss(loss)
                loss.backward()
                optimizer.step()
        kinds = ", ".join(incident.kind for incident in watch.incidents) or "nothing"
        print(f"gain {gain}: found {kinds}", flush=True)


if __name__ == "__main__":
    main()
