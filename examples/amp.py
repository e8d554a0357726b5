"""Mixed precision with a GradScaler: norms are unscaled, and an overflow is a skipped step, no incident.

python examples/amp.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradwatch


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32, device=device), torch.tensor(labels, device=device)

    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**24, growth_interval=50)  # too large a scale: steps overflow

    # No scaler.unscale_() is needed for the clipping: the watch knows the scale.
    with gradwatch.watch(model, clip=gradwatch.ClipNorm(1.0)) as watch:
        for _ in range(200):
            batch = torch.randint(len(y), (128,), device=device)
            with torch.autocast(device, dtype=torch.float16):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            watch.loss(loss)  # the loss itself, not the scaled one
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    skipped = sum(record.skipped for record in watch.history)
    norms = [record.total_norm for record in watch.history if not record.skipped]
    print(f"{skipped} of {watch.step} steps skipped, where the loss scale was too large for float16")
    print(
        f"gradient norm, unscaled: {norms[0]:.3g} at first, {norms[-1]:.3g} at last; loss scale {scaler.get_scale():g}"
    )
    print(f"incidents: {len(watch.incidents)}")


if __name__ == "__main__":
    main()
