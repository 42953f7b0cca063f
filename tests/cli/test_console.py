"""What is said while the work goes on, where there is no terminal."""

import pytest

from calibrant.cli import console as cli
from calibrant.cli.console import COMPILING, Console, Stages


def test_a_stage_that_compiles_first_is_said_at_once(capsys):
    with Stages(Console()) as stages:
        stages.begin("loading the model")
        stages.begin("calibrating", 2, then=f"finding the scales {COMPILING}")
        assert capsys.readouterr().err == ""
        stages.done(2)
    assert capsys.readouterr().err == f"finding the scales {COMPILING}\n"
    with Stages(Console(quiet=True)) as stages:
        stages.begin(f"calibrating {COMPILING}")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "said"), [("OutputRefinementPass", "output refinement"), ("LearnedStepSizePass", "learned step size")]
)
def test_a_pass_is_named_as_people_say_it(name, said, capsys, monkeypatch):
    monkeypatch.setattr(cli, "PLAIN_EVERY", 0)
    with Stages(Console()) as stages:
        stages.optimizing(name, 1, 60)
    assert capsys.readouterr().err == f"{said}: 1 layers\n"
