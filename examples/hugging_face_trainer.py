"""Hugging Face's Trainer under the watch: a tiny GPT-2 from scratch learns Python's own help texts, letter by letter.

Nothing is downloaded. The Trainer clips at a norm of 1; the watch sees the norms before that.

    python examples/hugging_face_trainer.py
"""

import tempfile
from pydoc_data.topics import topics

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import gradwatch

LENGTH = 64


class Letters(Dataset[dict[str, Tensor]]):
    def __init__(self, text: str, num_pieces: int) -> None:
        self.pieces = torch.tensor(list(text.encode()[: num_pieces * LENGTH])).view(num_pieces, LENGTH)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.pieces[index], "labels": self.pieces[index]}


def main() -> None:
    set_seed(0)
    config = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=100,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=Letters("".join(topics.values()), 512))
        with gradwatch.watch(model) as watch:
            result = trainer.train()

    clipped = sum(record.clipped for record in watch.history)
    print(f"\n{watch.step} steps, {clipped} of them clipped by the Trainer; incidents: {len(watch.incidents)}")
    print(f"mean loss {result.training_loss:.2f}; gradient norm {watch.total_norm:.2f} at the last step")


if __name__ == "__main__":
    main()
