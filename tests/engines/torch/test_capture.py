"""When a step is captured, and that every sample is counted once: on the CPU, with a device that only remembers."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from calibrant.core import ModelError
from calibrant.engines.torch.capture import MOST_GRAPHS, Steps
from calibrant.engines.torch.cuda import Cuda

X, N = ir.Value(name="x"), ir.Value(name="n")


class Remembering(Cuda):
    """A device that is the host: what is captured is a function, and replaying calls it."""

    def __init__(self, waiting=False, error=None):
        super().__init__(torch.device("cpu"))
        self.waiting, self.error = waiting, error
        self.captures = self.replays = self.steps = 0

    def upload(self, x):
        return x.clone()

    def refill(self, buffer, x):
        buffer.copy_(x)

    def waits(self, step):
        step()
        return self.waiting

    def capture(self, step):
        if self.error is not None:
            raise self.error
        self.captures += 1

        def replay():
            self.replays += 1
            step()

        return replay

    def keep_pace(self):
        self.steps += 1


class Adding:
    """A step that keeps what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, inputs, half):
        self.seen.append((inputs[X].sum().item(), int(half)))

    def memory(self):
        return None


def ran(sizes, device=None, numbers=None, capture=True):
    """Run samples of these sizes; the device, the step and what was noted. Every sample has been counted once."""
    device, step, notes = device or Remembering(), Adding(), []
    steps = Steps(step, {N}, device, notes.append, capture)
    expected = []
    for place, size in enumerate(sizes):
        x = torch.full((size,), float(place))
        inputs = {X: x} if numbers is None else {X: x, N: torch.tensor(numbers[place])}
        expected.append((x.sum().item(), place % 2))
        steps(inputs, place % 2)
        x.fill_(-1)  # it is the caller's again
    assert step.seen == expected
    assert device.steps == len(sizes)
    return device, notes


@pytest.mark.parametrize(
    ("sizes", "captures", "replays"),
    [
        ([3], 0, 0),
        ([3, 3], 1, 0),
        ([3, 3, 3, 3, 3], 1, 3),
        ([3, 4, 3, 4, 3, 4, 4], 2, 3),
        ([1, 2, 3, 4, 5], 0, 0),
    ],
    ids=["one", "two", "five", "two shapes in turn", "all different"],
)
def test_the_third_of_a_kind_is_replayed(sizes, captures, replays):
    device, notes = ran(sizes)
    assert (device.captures, device.replays, notes) == (captures, replays, [])


def test_numbers_on_the_host_make_kinds():
    assert ran([3] * 6, numbers=[1, 1, 2, 1, 2, 1])[0].captures == 2
    assert ran([3] * 6, numbers=[1, 2, 3, 4, 5, 6])[0].captures == 0


def test_strings_make_kinds_too():
    step, device = Adding(), Remembering()
    steps = Steps(step, set(), device, print)
    for text in ("a", "a", "b", "a"):
        steps({X: torch.ones(2), N: np.array([text], object)}, 0)
    assert (device.captures, device.replays, len(step.seen)) == (1, 1, 4)


def test_nothing_is_captured_unless_it_is_asked_for():
    device, notes = ran([3] * 5, capture=False)
    assert (device.captures, notes) == (0, [])


def test_a_step_that_waits_is_not_captured():
    device, notes = ran([3, 3, 3, 4, 4, 4], Remembering(waiting=True))
    assert device.captures == 0
    assert len(notes) == 1
    assert "operator by operator" in notes[0]
    assert "waits for the device" in notes[0]


@pytest.mark.parametrize("error", [RuntimeError("out of room\nand more"), ModelError("out of room")])
def test_a_capture_that_fails_is_told(error):
    device, notes = ran([3] * 5, Remembering(error=error))
    assert device.captures == 0
    assert len(notes) == 1
    assert notes[0].endswith(": out of room")


def test_no_more_than_so_many_graphs():
    sizes = list(range(1, MOST_GRAPHS + 3))
    device, notes = ran(sizes * 4)
    assert (device.captures, device.replays) == (MOST_GRAPHS, 2 * MOST_GRAPHS)
    assert len(notes) == 1
    assert f"more than {MOST_GRAPHS} shapes" in notes[0]
