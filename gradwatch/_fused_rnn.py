"""One call of nn.RNN, nn.GRU or nn.LSTM on a probed step: what is kept of it, and the signal through its time.

Kept are the inputs, the first states and the outputs of a few samples, and the gradients that come to the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch._transfer import look
from gradwatch._unroll import Recurrence
from gradwatch.records import Unavailable

MAX_SAMPLES = 8
"""Of the batch; fewer where one is very large."""

MAX_STEPS = 512
"""The last time steps that the signal is followed through."""

_MAX_ALL_STEPS = 4_096
"""All time steps, where the states have to be run forward first."""

_MAX_ELEMENTS = 1 << 22
"""Of one call's inputs and outputs."""

Rows = Tensor
"""``[3, num_steps]`` float64: norm, direct and response of ``TimeProfile``."""


@dataclass(frozen=True, eq=False)
class _Samples:
    """Where the first few samples lie in what a call is given and gives.

    Attributes:
        steps: Number of time steps.
        count: Number of samples.
        dtype: In which everything is kept: float32 or wider.
        time_dim: Dimension of the time steps, -1 in a packed sequence.
        batched: Whether there is a dimension for the samples.
        rows: In a packed sequence the row of each step and sample, ``[steps * count]``.
        valid: Where there is one, ``[steps, count, 1]``.
        turn: The step with which each changes places for the backward direction, ``[steps, count, 1]``.
        ends: The last step of each sample, ``[1, count, 1]``.
        order: Which samples of the batch they are, as the states have them, ``[count]``.
    """

    steps: int
    count: int
    dtype: torch.dtype
    time_dim: int = 0
    batched: bool = True
    rows: Tensor | None = None
    valid: Tensor | None = None
    turn: Tensor | None = None
    ends: Tensor | None = None
    order: Tensor | None = None

    @classmethod
    def of(cls, module: nn.RNNBase, given: Tensor | PackedSequence, output: Tensor) -> _Samples:
        """Choose them; the lengths of a packed sequence lie in host memory."""
        dtype = torch.float64 if output.dtype == torch.float64 else torch.float32
        width = output.shape[-1] + module.input_size
        if isinstance(given, PackedSequence):
            return cls._packed(given, width, dtype)
        batched = given.dim() > 2  # noqa: PLR2004 - [time, features] has no batch
        time_dim = 1 if batched and module.batch_first else 0
        steps, num_samples = given.shape[time_dim], given.shape[1 - time_dim] if batched else 1
        return cls(steps, _affordable(num_samples, steps * width), dtype, time_dim, batched)

    @classmethod
    def _packed(cls, given: PackedSequence, width: int, dtype: torch.dtype) -> _Samples:
        sizes, device = look(given.batch_sizes), given.data.device
        steps, count = len(sizes), _affordable(int(sizes[0]), len(sizes) * width)
        offset, sample = (np.cumsum(sizes) - sizes)[:, None], np.arange(count)
        valid = sample < sizes[:, None]
        lengths = valid.sum(0)
        turn = np.maximum(lengths - 1 - np.arange(steps)[:, None], 0)
        rows = offset + np.minimum(sample, sizes[:, None] - 1)

        def there(array: np.ndarray[Any, Any]) -> Tensor:
            return torch.as_tensor(array).to(device, non_blocking=True)

        return cls(
            steps,
            count,
            dtype,
            -1,
            rows=there(rows.reshape(-1)),
            valid=there(valid[..., None]),
            turn=there(turn[..., None]),
            ends=there((lengths - 1)[None, :, None]),
            order=None if given.sorted_indices is None else given.sorted_indices[:count],
        )

    def sequence(self, tensor: Tensor) -> Tensor:
        """A copy of their part, ``[steps, count, features]``."""
        if self.rows is not None and self.valid is not None:
            kept = tensor.detach().index_select(0, self.rows).unflatten(0, (self.steps, self.count))
            return torch.where(self.valid, kept, torch.zeros_like(kept)).to(self.dtype)
        kept = tensor.detach() if self.batched else tensor.detach().unsqueeze(1)
        kept = kept.transpose(0, 1) if self.time_dim == 1 else kept
        return kept[:, : self.count].to(self.dtype, copy=True)

    def state(self, tensor: Tensor) -> Tensor:
        """A copy of their part of a state, ``[layers * directions, count, size]``."""
        kept = tensor.detach() if self.batched else tensor.detach().unsqueeze(1)
        kept = kept[:, : self.count] if self.order is None else kept.index_select(1, self.order)
        return kept.to(self.dtype, copy=True)

    def turned(self, tensor: Tensor) -> Tensor:
        """``[steps, count, features]`` in the order in which the backward direction reads it, and back again."""
        if self.turn is None or self.valid is None:
            return tensor.flip(0)
        return torch.where(self.valid, tensor.gather(0, self.turn.expand(-1, -1, tensor.shape[-1])), 0)

    def at_end(self, tensor: Tensor) -> Tensor:
        """``[count, size]`` at the last step of each sample, zero elsewhere."""
        placed = tensor.new_zeros(self.steps, *tensor.shape)
        if self.ends is None:
            placed[-1] = tensor
            return placed
        return placed.scatter(0, self.ends.expand(1, *tensor.shape), tensor.unsqueeze(0))


class FusedCall:
    """What is kept of one call."""

    def __init__(self, module: nn.RNNBase, args: Any, output: Any, kwargs: Mapping[str, Any]) -> None:
        given = args[0] if args else kwargs["input"]
        states = args[1] if len(args) > 1 else kwargs.get("hx")
        data = output[0].data if isinstance(output[0], PackedSequence) else output[0]
        self._module, self._training = module, module.training
        self._samples = samples = _Samples.of(module, given, data)
        self._inputs = samples.sequence(given.data if isinstance(given, PackedSequence) else given)
        self._outputs = samples.sequence(data)
        self._first = [] if states is None else [samples.state(s) for s in _as_tuple(states)]
        self._gradients: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._listen("outputs", data, samples.sequence)
        for name, state in zip(("hidden", "cell"), _as_tuple(output[1]), strict=False):
            self._listen(name, state, samples.state)

    def _listen(self, name: str, tensor: Tensor, keep: Callable[[Tensor], Tensor]) -> None:
        """Keep what comes back to ``tensor``: a hook on its node, for the tensor itself may be changed in place."""
        base = tensor._base  # noqa: SLF001 - after a change in place, a view's own node is no longer in the graph
        view = base is not None and base.grad_fn is not None and base.is_contiguous()
        root = base if view and base is not None else tensor
        if (node := root.grad_fn) is None:
            return
        size, stride, number = tensor.shape, tensor.stride(), root.output_nr
        offset = tensor.storage_offset() - root.storage_offset()

        def note(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[number]
            if gradient is None or type(gradient) is not Tensor:
                return
            with torch.no_grad():
                seen = gradient.detach().contiguous().as_strided(size, stride, offset) if view else gradient
                kept, before = keep(seen), self._gradients.get(name)
                self._gradients[name] = kept if before is None else before + kept

        self._handles.append(node.register_prehook(note))  # type: ignore[attr-defined,no-untyped-call,unused-ignore]

    def close(self) -> None:
        """Take the hooks away, where the graph still lives."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def has_gradients(self) -> bool:
        """Whether a backward pass has come by."""
        return bool(self._gradients)

    def follow(self) -> Iterator[tuple[str, Rows] | Unavailable]:
        """The signal through time of each layer and direction, the last layer first; and what cannot be known."""
        module, samples = self._module, self._samples
        num_layers, num_directions = module.num_layers, 2 if module.bidirectional else 1
        cells = [
            Recurrence.of(module, k // num_directions, k % num_directions, samples.dtype)
            for k in range(num_layers * num_directions)
        ]
        recurrences = [cell for cell in cells if isinstance(cell, Recurrence)]
        if len(recurrences) < len(cells):
            yield next(cell for cell in cells if isinstance(cell, Unavailable))
            return
        # A vanilla RNN's slopes follow from its outputs alone: there the last layer is exact without its inputs.
        vanilla = module.mode.startswith("RNN")
        masked = num_layers > 1 and module.dropout > 0 and self._training
        if masked:
            which = "the layers below the last one" if vanilla else f"this {module.mode}'s layers"
            yield Unavailable(
                f"the signal through time of {which}",
                "dropout between the layers drew numbers that nobody can draw again",
            )
        unknown = samples.steps > _MAX_ALL_STEPS and (num_layers > 1 or module.mode == "LSTM")
        if unknown:
            yield Unavailable("the signal through time", f"the sequence has {samples.steps:,} steps")
        if unknown or (masked and not vanilla):
            return
        yield from self._follow_down(recurrences, num_layers, num_directions, only_last=masked)

    def _follow_down(
        self, cells: list[Recurrence], num_layers: int, num_directions: int, *, only_last: bool
    ) -> Iterator[tuple[str, Rows] | Unavailable]:
        samples = self._samples
        first, first_cell = self._first_states(num_layers * num_directions, cells[0])
        inputs, states = [self._inputs], []
        for layer in range(0 if only_last else num_layers - 1):
            for k in range(layer * num_directions, (layer + 1) * num_directions):
                read = samples.turned(inputs[layer]) if k % num_directions else inputs[layer]
                states.append(cells[k].states(read, first[k], None if first_cell is None else first_cell[k]))
            outputs = [samples.turned(s) if d else s for d, s in enumerate(states[-num_directions:])]
            inputs.append(torch.cat(outputs, -1))
        size = cells[0].w_hh.shape[1]
        direct = self._gradients.get("outputs", torch.zeros_like(self._outputs))
        hidden, cell = self._gradients.get("hidden"), self._gradients.get("cell")
        for layer in range(num_layers - 1, -1, -1):
            below = None
            for d in range(num_directions):
                k = layer * num_directions + d
                part = slice(d * size, (d + 1) * size)
                seeds, read = direct[..., part], inputs[-1 if only_last else layer]
                state = self._outputs[..., part] if layer == num_layers - 1 else states[k]
                if d:
                    seeds, read = samples.turned(seeds), samples.turned(read)
                    state = samples.turned(state) if layer == num_layers - 1 else state
                seeds = seeds if hidden is None else seeds + samples.at_end(hidden[k])
                into_cell = None if cell is None else samples.at_end(cell[k])
                state = torch.cat((first[k].unsqueeze(0), state))
                came, rows = _carried(
                    cells[k], read, state, None if first_cell is None else first_cell[k], seeds, into_cell
                )
                yield f"{layer} reverse" if d else str(layer), rows
                came = samples.turned(came) if d else came
                below = came if below is None else below + came
            if only_last or layer == 0:
                return
            if samples.steps > MAX_STEPS:
                yield Unavailable(
                    "the signal through time of the layers below the last one",
                    f"a sequence of {samples.steps:,} steps is followed through its last {MAX_STEPS} only",
                )
                return
            assert below is not None
            direct = below

    def _first_states(self, count: int, cell: Recurrence) -> tuple[Tensor, Tensor | None]:
        """What the recurrence began with: as given, or zero."""
        if self._first:
            return self._first[0], self._first[1] if len(self._first) > 1 else None
        samples, like = self._samples, self._outputs
        hidden = like.new_zeros(count, samples.count, cell.w_hh.shape[1])
        gated = cell.mode == "LSTM"
        return hidden, like.new_zeros(count, samples.count, cell.w_hh.shape[0] // 4) if gated else None


def _carried(
    cell: Recurrence,
    inputs: Tensor,
    states: Tensor,
    first_cell: Tensor | None,
    seeds: Tensor,
    cell_seeds: Tensor | None,
) -> tuple[Tensor, Rows]:
    """The gradient with respect to the inputs, and the numbers of the profile."""
    seeds = seeds[-MAX_STEPS:]
    cell_seeds = None if cell_seeds is None else cell_seeds[-MAX_STEPS:]
    joint = seeds if cell_seeds is None else torch.cat((seeds, cell_seeds), -1)
    entering = (joint != 0).any(-1)
    later = entering.flip(0).cumsum(0).flip(0)
    last = entering & (later == 1)
    # Each sample's last direct gradient alone, made a unit vector: no small loss lets it underflow.
    alone = torch.where(last.unsqueeze(-1), joint / joint.abs().amax((0, 2)).unsqueeze(-1), 0)
    alone = torch.nan_to_num(alone / torch.linalg.vector_norm(alone, dim=(0, 2)).unsqueeze(-1))
    size = seeds.shape[-1]
    both = torch.stack((seeds, alone[..., :size]), 1)
    both_cells = None if cell_seeds is None else torch.stack((cell_seeds, alone[..., size:]), 1)
    signal = cell.back(inputs, states, first_cell, both, both_cells)
    wide = torch.float64
    norm = torch.linalg.vector_norm(signal.hidden[:, 0], dim=(1, 2), dtype=wide)
    direct = torch.linalg.vector_norm(seeds, dim=(1, 2), dtype=wide)
    reached = torch.linalg.vector_norm(signal.hidden[:, 1], dim=-1, dtype=wide)
    if signal.cell is not None:
        reached = torch.hypot(reached, torch.linalg.vector_norm(signal.cell[:, 1], dim=-1, dtype=wide))
    return signal.inputs, torch.stack((norm, direct, _response(reached, last)))


def _response(reached: Tensor, last: Tensor) -> Tensor:
    """What reaches each state of the samples' last direct gradient: root mean square, as a share of it.

    Args:
        reached: ``[num_steps, num_samples]``.
        last: Where each sample's last direct gradient entered, same shape.

    Returns:
        ``[num_steps]``, counted back from each sample's own last direct gradient: 1 at the end; NaN where no sample
        reaches so far back.
    """
    steps = torch.arange(len(last), device=last.device).unsqueeze(1)
    back = (last * steps).sum(0, keepdim=True) - steps
    alive = (back >= 0) & last.any(0, keepdim=True)
    shifted = reached.gather(0, back.clamp_min(0))
    share = torch.where(alive, shifted / shifted[:1], 0)
    return (share.square().sum(1) / alive.sum(1)).sqrt().flip(0)


def _as_tuple(states: Any) -> tuple[Tensor, ...]:
    return tuple(states) if isinstance(states, (tuple, list)) else (states,)


def _affordable(num_samples: int, size: int) -> int:
    return min(num_samples, MAX_SAMPLES, max(1, _MAX_ELEMENTS // max(1, size)))
