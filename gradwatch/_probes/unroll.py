"""Back-propagation through time by hand, of one layer and direction of nn.RNN, nn.GRU or nn.LSTM.

Torch's fused kernels keep what happens between two time steps to themselves. But the hidden states are known (they are
the output), and from them and the inputs follow all gates of all time steps at once; only the signal itself has to be
carried back step by step. No autograd graph is made: nothing of the user's is touched.

The recurrences are those of torch's documentation; their derivatives follow Werbos (1990), "Backpropagation through
time: what it does and how to do it", and for the LSTM Hochreiter & Schmidhuber (1997).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch.records import Unavailable


@dataclass(frozen=True, eq=False)
class Signal:
    """What was carried back; the second of the two signals never meets the first.

    Attributes:
        hidden: The gradient with respect to the hidden state after each step, ``[num_steps, 2, num_samples, size]``.
        cell: The same of an LSTM's cell state; None of others.
        inputs: Of the first signal, with respect to the inputs, ``[num_steps, num_samples, input_size]``.
    """

    hidden: Tensor
    cell: Tensor | None
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class Recurrence:
    """One layer and direction with its weights, detached.

    Attributes:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"GRU"`` or ``"LSTM"``, as torch calls them.
        w_ih: ``[gates * hidden, input]``.
        w_hh: ``[gates * hidden, size of the state]``.
        b_ih: ``[gates * hidden]`` or None.
        b_hh: ``[gates * hidden]`` or None.
        w_hr: The projection of an LSTM with ``proj_size``, ``[proj, hidden]``.
    """

    mode: str
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None

    @classmethod
    def of(cls, module: nn.RNNBase, layer: int, direction: int, dtype: torch.dtype) -> Recurrence | Unavailable:
        """The weights of one layer and direction; or why they cannot be had."""
        suffix = f"_l{layer}{'_reverse' if direction else ''}"
        weights = {}
        for ours, theirs in (("w_ih", "weight_ih"), ("w_hh", "weight_hh"), ("b_ih", "bias_ih"), ("b_hh", "bias_hh")):
            weights[ours] = getattr(module, theirs + suffix, None)
        weights["w_hr"] = getattr(module, f"weight_hr{suffix}", None)
        present = [weight for weight in weights.values() if weight is not None]
        # A sharded weight is a DTensor, or empty between its uses.
        if any(type(weight) not in (Tensor, nn.Parameter) or weight.numel() == 0 for weight in present):
            return Unavailable("the signal through time", f"the weights of this {module.mode} are not all here")
        wide: dict[str, Any] = {k: None if w is None else w.detach().to(dtype) for k, w in weights.items()}
        return cls(module.mode, **wide)

    def states(self, inputs: Tensor, first: Tensor, first_cell: Tensor | None) -> Tensor:
        """The hidden states, run forward from the first.

        Args:
            inputs: ``[num_steps, num_samples, input_size]``.
            first: The state before the first step, ``[num_samples, size]``.
            first_cell: The cell state before it, ``[num_samples, hidden]``, of an LSTM.

        Returns:
            ``[num_steps, num_samples, size]``.
        """
        hidden, cell, states = first, first_cell, []
        for given in functional.linear(inputs, self.w_ih, self.b_ih).unbind():
            recurrent = functional.linear(hidden, self.w_hh, self.b_hh)
            if self.mode == "GRU":
                _, z, n, _ = _gru_gates(given, recurrent)
                hidden = n + z * (hidden - n)
            elif cell is not None:
                i, f, g, o = _lstm_gates(given + recurrent)
                cell = f * cell + i * g
                hidden = o * torch.tanh(cell)
                hidden = hidden if self.w_hr is None else functional.linear(hidden, self.w_hr)
            else:
                hidden = torch.tanh(given + recurrent) if self.mode == "RNN_TANH" else torch.relu(given + recurrent)
            states.append(hidden)
        return torch.stack(states)

    def gates(self, inputs: Tensor, before: Tensor) -> list[tuple[str, Tensor]]:
        """What the gates give, and the new content: the activations inside of a gated layer.

        Args:
            inputs: ``[rows, input_size]``.
            before: The hidden state before each, ``[rows, size]``.

        Returns:
            What all sigmoids give together, ``[rows, gates * hidden]``, what the tanh gives, ``[rows, hidden]``, and
            how far each gate is open through which everything new must come in or out.
        """
        given = functional.linear(inputs, self.w_ih, self.b_ih)
        recurrent = functional.linear(before, self.w_hh, self.b_hh)
        if self.mode == "GRU":
            r, z, n, _ = _gru_gates(given, recurrent)
            return [("Sigmoid", torch.cat((r, z), -1)), ("Tanh", n), ("Gate", 1 - z)]
        i, f, g, o = _lstm_gates(given + recurrent)
        return [("Sigmoid", torch.cat((i, f, o), -1)), ("Tanh", g), ("Gate", i), ("Gate", o)]

    def back(
        self, inputs: Tensor, states: Tensor, first_cell: Tensor | None, seeds: Tensor, cell_seeds: Tensor | None
    ) -> Signal:
        """Carry two signals back through the last steps.

        Args:
            inputs: ``[num_all, num_samples, input_size]``; a vanilla RNN does not look at them.
            states: The hidden states with the one before the first step, ``[num_all + 1, num_samples, size]``.
            first_cell: As in :meth:`states`.
            seeds: What enters at each of the last steps, ``[num_steps, 2, num_samples, size]``; ``num_steps`` may be
                less than ``num_all``.
            cell_seeds: The same into the cell states; None for nothing.
        """
        if self.mode == "LSTM":
            return self._back_lstm(inputs, states, first_cell, seeds, cell_seeds)
        num_steps = len(seeds)
        before, after = states[-num_steps - 1 : -1], states[-num_steps:]
        keep = None
        if self.mode == "GRU":
            given = functional.linear(inputs[-num_steps:], self.w_ih, self.b_ih)
            r, keep, n, h = _gru_gates(given, functional.linear(before, self.w_hh, self.b_hh))
            through_n = (1 - keep) * (1 - n * n)
            through_r, through_z = through_n * h * r * (1 - r), (before - n) * keep * (1 - keep)
            to_hidden = torch.stack((through_r, through_z, through_n * r), -2)
            to_inputs = torch.stack((through_r, through_z, through_n), -2)
        else:
            slope = 1 - after * after if self.mode == "RNN_TANH" else (after > 0).to(after.dtype)
            to_hidden = to_inputs = slope.unsqueeze(-2)
        hidden = self._carry(seeds, to_hidden, keep)
        gates = (hidden[:, 0].unsqueeze(-2) * to_inputs).flatten(-2)
        return Signal(hidden, None, gates @ self.w_ih)

    def _carry(self, seeds: Tensor, slopes: Tensor, keep: Tensor | None) -> Tensor:
        """The loop over time of RNN and GRU: few operations, for each of them costs the same for any small size."""
        rows = seeds.flatten(1, 2).unbind()
        each = torch.cat((slopes, slopes), 1).unbind()
        kept = None if keep is None else torch.cat((keep, keep), 1).unbind()
        signal = rows[-1]
        carried = [signal]
        for step in range(len(rows) - 1, 0, -1):
            entering = rows[step - 1] if kept is None else torch.addcmul(rows[step - 1], signal, kept[step])
            signal = torch.addmm(entering, (signal.unsqueeze(1) * each[step]).flatten(1), self.w_hh)
            carried.append(signal)
        return torch.stack(carried[::-1]).view(seeds.shape)

    def _back_lstm(
        self, inputs: Tensor, states: Tensor, first_cell: Tensor | None, seeds: Tensor, cell_seeds: Tensor | None
    ) -> Signal:
        num_steps, num_samples = len(seeds), states.shape[1]
        both = functional.linear(inputs, self.w_ih, self.b_ih) + functional.linear(states[:-1], self.w_hh, self.b_hh)
        i, f, g, o = _lstm_gates(both)
        assert first_cell is not None
        cells = [first_cell]
        for entering, kept in zip((i * g).unbind(), f.unbind(), strict=True):
            cells.append(torch.addcmul(entering, kept, cells[-1]))
        cell = torch.stack(cells)
        before, squashed = cell[-num_steps - 1 : -1], torch.tanh(cell[-num_steps:])
        i, f, g, o = (gate[-num_steps:] for gate in (i, f, g, o))
        opened, out_gate = o * (1 - squashed * squashed), squashed * o * (1 - o)
        slopes = torch.stack((g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)), -2)
        opened, out_gate, slopes, f = (torch.cat((t, t), 1) for t in (opened, out_gate, slopes, f))
        rows = seeds.flatten(1, 2)
        into_cell = None if cell_seeds is None else cell_seeds.flatten(1, 2)
        carry = opened.new_zeros(opened.shape[1:])
        signal, hidden, cell_signals, gates = rows[-1], [], [], []
        for step in range(num_steps - 1, -1, -1):
            hidden.append(signal)
            output = signal if self.w_hr is None else signal @ self.w_hr
            if into_cell is not None:
                carry = carry + into_cell[step]
            through = torch.addcmul(carry, output, opened[step])
            cell_signals.append(through)
            gates.append(torch.cat(((slopes[step] * through.unsqueeze(1)).flatten(1), output * out_gate[step]), 1))
            carry = through * f[step]
            if step > 0:
                signal = torch.addmm(rows[step - 1], gates[-1], self.w_hh)
        ordered = torch.stack(cell_signals[::-1]).unflatten(1, (2, num_samples))
        first = torch.stack(gates[::-1])[:, :num_samples]
        return Signal(torch.stack(hidden[::-1]).view(seeds.shape), ordered, first @ self.w_ih)


def _gru_gates(given: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reset gate, update gate, new content, and what of the old state goes into that."""
    r_i, z_i, n_i = given.chunk(3, -1)
    r_h, z_h, n_h = recurrent.chunk(3, -1)
    r, z = torch.sigmoid(r_i + r_h), torch.sigmoid(z_i + z_h)
    return r, z, torch.tanh(n_i + r * n_h), n_h


def _lstm_gates(both: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input gate, forget gate, new content, output gate."""
    i, f, g, o = both.chunk(4, -1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
