"""One call of nn.RNN, nn.GRU or nn.LSTM on a probed step: what is kept of it, and the signal through its time.

Kept are the inputs, the first states and the outputs of a few samples, and the gradients that come to the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch._probes.node_hook import put_hook
from gradwatch._probes.sequence_sample import SequenceSample
from gradwatch._probes.unroll import Recurrence
from gradwatch.records import Unavailable

MAX_STEPS = 512
"""The last time steps that the signal is followed through."""

_MAX_ALL_STEPS = 4_096
"""All time steps, where the states have to be run forward first."""

Rows = Tensor
"""``[3, num_steps]`` float64: norm, direct and response of ``TimeProfile``."""


class FusedCall:
    """What is kept of one call."""

    def __init__(self, module: nn.RNNBase, args: Any, output: Any, kwargs: Mapping[str, Any]) -> None:
        given = args[0] if args else kwargs["input"]
        states = args[1] if len(args) > 1 else kwargs.get("hx")
        data = output[0].data if isinstance(output[0], PackedSequence) else output[0]
        self._module, self._training = module, module.training
        self._samples = samples = SequenceSample.of(module, given, data)
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
        size, stride = tensor.shape, tensor.stride()
        offset = tensor.storage_offset() - root.storage_offset()

        def note(gradient: Tensor) -> None:
            seen = gradient.contiguous().as_strided(size, stride, offset) if view else gradient
            kept, before = keep(seen), self._gradients.get(name)
            self._gradients[name] = kept if before is None else before + kept

        self._handles.append(put_hook(node, note, root.output_nr))

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
                    cells[k], read, state, None if first_cell is None else first_cell[k], (seeds, into_cell)
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
    entering: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Rows]:
    """The gradient with respect to the inputs, and the numbers of the profile."""
    seeds, cell_seeds = (None if e is None else e[-MAX_STEPS:] for e in entering)
    assert seeds is not None
    joint = seeds if cell_seeds is None else torch.cat((seeds, cell_seeds), -1)
    speaks = (joint != 0).any(-1)
    last = speaks & (speaks.flip(0).cumsum(0).flip(0) == 1)
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
