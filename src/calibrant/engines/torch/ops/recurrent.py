"""RNN, GRU and LSTM, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from calibrant.engines.torch.ops.registry import Tensor, Unsupported, op

States = tuple[Tensor, ...]
Step = Callable[[Tensor, States], States]  # of one time step's input, and the states before; the first is the output
Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Activation] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def _activations(names: Sequence[str] | None, usual: Sequence[str], directions: int) -> list[list[Activation]]:
    """For each direction, its functions."""
    given = [name.casefold() for name in names] if names else list(usual) * directions
    if not set(given) <= _ACTIVATIONS.keys():
        raise Unsupported(f"activations {', '.join(names or usual)}")
    each = len(usual)
    return [[_ACTIVATIONS[name] for name in given[each * d : each * (d + 1)]] for d in range(directions)]


def _scan(x: Tensor, lengths: Tensor | None, states: States, backwards: bool, step: Step) -> tuple[Tensor, States]:
    """Outputs [time, batch, hidden] and the last states. Beyond a sequence's length: 0, and the states stay."""
    outputs: list[Tensor] = []
    order = range(x.shape[0] - 1, -1, -1) if backwards else range(x.shape[0])
    for time in order:
        new = step(x[time], states)
        out = new[0]
        if lengths is not None:
            inside = (lengths > time)[:, None]
            new = tuple(torch.where(inside, a, b) for a, b in zip(new, states, strict=True))
            out = torch.where(inside, out, torch.zeros_like(out))
        outputs.append(out)
        states = new
    return torch.stack(outputs[::-1] if backwards else outputs), states


class _Layer:
    """What the three have in common: directions, layouts, weights, outputs.

    x: [time, batch, input]; layout 1: [batch, time, input]. w: [directions, gates * hidden, input].
    """

    def __init__(
        self, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, direction: str, layout: int, clip: float | None
    ) -> None:
        if clip is not None:
            raise Unsupported("clip")
        self.x = x.transpose(0, 1) if layout else x
        self.w, self.r, self.layout = w, r, layout
        self.directions, self.hidden = r.shape[0], r.shape[-1]
        self.b = torch.zeros(self.directions, 2 * w.shape[1], dtype=x.dtype, device=x.device) if b is None else b
        self.backwards = [direction == "reverse", True][: self.directions]

    def initial(self, state: Tensor | None) -> Tensor:
        """[directions, batch, hidden]; zeros where none is given."""
        if state is None:
            return self.x.new_zeros(self.directions, self.x.shape[1], self.hidden)
        return state.transpose(0, 1) if self.layout else state

    def run(self, lengths: Tensor | None, states: Sequence[Tensor], steps: Sequence[Step]) -> tuple[Tensor, ...]:
        """Outputs [time, directions, batch, hidden], and the last of each state [directions, batch, hidden]."""
        found = [
            _scan(self.x, lengths, tuple(state[d] for state in states), back, steps[d])
            for d, back in enumerate(self.backwards)
        ]
        outputs = torch.stack([out for out, _ in found], 1)
        last = [torch.stack([each[i] for _, each in found]) for i in range(len(states))]
        if self.layout:
            return outputs.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last)
        return outputs, *last


@op("RNN")
def rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None, *,
    activations: Sequence[str] | None = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int = 0, layout: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    layer = _Layer(x, w, r, b, direction, layout, clip)
    functions = _activations(activations, ["tanh"], layer.directions)

    def of(d: int) -> Step:
        bias = layer.b[d].reshape(2, -1).sum(0)

        def step(now: Tensor, states: States) -> States:
            return (functions[d][0](now @ w[d].T + states[0] @ r[d].T + bias),)

        return step

    return layer.run(lengths, [layer.initial(h)], [of(d) for d in range(layer.directions)])


@op("GRU")
def gru(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None, *,
    activations: Sequence[str] | None = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int = 0, layout: int = 0, linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gates in the order update, reset, hidden."""
    layer = _Layer(x, w, r, b, direction, layout, clip)
    functions = _activations(activations, ["sigmoid", "tanh"], layer.directions)

    def of(d: int) -> Step:
        gate, new = functions[d]
        wb, rb = layer.b[d].reshape(2, -1)
        size = layer.hidden

        def step(now: Tensor, states: States) -> States:
            (last,) = states
            given = now @ w[d].T + wb
            update, reset = gate(given[:, : 2 * size] + last @ r[d, : 2 * size].T + rb[: 2 * size]).chunk(2, -1)
            if linear_before_reset:
                kept = reset * (last @ r[d, 2 * size :].T + rb[2 * size :])
            else:
                kept = (reset * last) @ r[d, 2 * size :].T + rb[2 * size :]
            return ((1 - update) * new(given[:, 2 * size :] + kept) + update * last,)

        return step

    return layer.run(lengths, [layer.initial(h)], [of(d) for d in range(layer.directions)])


@op("LSTM")
def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None,
    c: Tensor | None = None, p: Tensor | None = None, *,
    activations: Sequence[str] | None = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int = 0, input_forget: int = 0, layout: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gates in the order input, output, forget, cell; `p` holds the peepholes of the first three."""
    if input_forget:
        raise Unsupported("input_forget")
    layer = _Layer(x, w, r, b, direction, layout, clip)
    functions = _activations(activations, ["sigmoid", "tanh", "tanh"], layer.directions)

    def of(d: int) -> Step:
        gate, new, out = functions[d]
        bias = layer.b[d].reshape(2, -1).sum(0)
        peep_i, peep_o, peep_f = (0, 0, 0) if p is None else p[d].chunk(3)

        def step(now: Tensor, states: States) -> States:
            last, cell = states
            i, o, f, g = (now @ w[d].T + last @ r[d].T + bias).chunk(4, -1)
            cell_now = gate(f + peep_f * cell) * cell + gate(i + peep_i * cell) * new(g)
            return gate(o + peep_o * cell_now) * out(cell_now), cell_now

        return step

    return layer.run(lengths, [layer.initial(h), layer.initial(c)], [of(d) for d in range(layer.directions)])
