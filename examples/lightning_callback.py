"""The same for Lightning: one callback. It works with ``pytorch_lightning``, too.

python examples/lightning_callback.py
"""

import tempfile

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradwatch
from gradwatch.lightning import GradWatch


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def main() -> None:
    pl.seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    loader = DataLoader(data, batch_size=64, shuffle=True)

    # The callback clips, so gradient_clip_val stays unset. It logs through the Trainer's own logger.
    watch = GradWatch(clip=gradwatch.ClipNorm(1.0))
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=3,
            accelerator="cpu",
            callbacks=[watch],
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Digits(), loader)

    print(watch.summary())
    print(f"\nLast loss: {trainer.callback_metrics['loss']:.3f}; incidents: {len(watch.incidents)}")


if __name__ == "__main__":
    main()
