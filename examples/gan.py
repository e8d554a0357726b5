"""Two networks, two optimizers, one watch each: the norms and the clipping of one never mix with the other's.

python examples/gan.py
"""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as score

import gradwatch

BATCH = 128


def ring(num: int) -> torch.Tensor:
    """Points on a circle: what the generator is to imitate."""
    angle = 2 * torch.pi * torch.rand(num)
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.02 * torch.randn(num, 2)


def mlp(num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, num_outputs)
    )


def main() -> None:
    torch.manual_seed(0)
    generator, critic = mlp(8, 2), mlp(2, 1)
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
    real, fake = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

    # One watch over a module that holds both would do as well: its records say which optimizer has stepped.
    with gradwatch.watch(generator) as generator_watch, gradwatch.watch(critic) as critic_watch:
        for _ in range(600):
            points = generator(torch.randn(BATCH, 8))

            critic_loss = score(critic(ring(BATCH)), real) + score(critic(points.detach()), fake)
            critic_watch.loss(critic_loss)
            critic_optimizer.zero_grad()
            critic_loss.backward()
            critic_optimizer.step()

            generator_loss = score(critic(points), real)  # leaves gradients in the critic, too: they are not counted
            generator_watch.loss(generator_loss)
            generator_optimizer.zero_grad()
            generator_loss.backward()
            generator_optimizer.step()

    for name, watch in ("generator", generator_watch), ("critic", critic_watch):
        print(
            f"{name}: {watch.step} steps, last gradient norm {watch.total_norm:.3g}, {len(watch.incidents)} incidents"
        )
    radius = generator(torch.randn(1000, 8)).norm(dim=1)
    print(f"generated points lie {radius.mean():.2f} ± {radius.std():.2f} from the centre (real ones: 1.00 ± 0.02)")


if __name__ == "__main__":
    main()
