"""When what happens: steps from epochs, intervals, and what is refused."""

import pytest

from jattn.config import Config, ValidationConfig
from jattn.data.digits import Digits
from jattn.errors import UserError
from jattn.training.setup import build, make_plan


def config(**changes):
    """A config of batch size 10 with dotted names replaced."""
    made = Config(steps=70)
    made.data.batch_size = 10
    for name, value in changes.items():
        *groups, field = name.split("__")
        owner = made
        for group in groups:
            owner = getattr(owner, group)
        setattr(owner, field, value)
    return made


def test_a_split_without_examples_is_refused_before_anything_is_built():
    class Empty(Digits):
        def size(self, split):
            return 0 if split == "valid" else super().size(split)

    with pytest.raises(UserError, match="split 'valid' of data set digits is empty"):
        build(config(), Empty())


def test_an_epoch_is_the_default_interval():
    plan = make_plan(config(), 126)
    assert (plan.total, plan.steps_per_epoch, plan.validate_every, plan.checkpoint_every) == (70, 12.6, 13, 13)


def test_epochs_are_rounded_up_to_whole_steps():
    assert make_plan(config(steps=None, epochs=2.5), 126).total == 32
    assert make_plan(config(steps=None, epochs=0.01), 126).total == 1


def test_a_batch_larger_than_the_split_is_more_than_an_epoch():
    plan = make_plan(config(), 4)
    assert (plan.steps_per_epoch, plan.validate_every) == (0.4, 1)


def test_checkpoints_follow_validation_unless_said_otherwise():
    plan = make_plan(config(validation=ValidationConfig(every=7), checkpoint__every=None), 126)
    assert plan.checkpoint_every == 7
    assert make_plan(config(checkpoint__every=9), 126).checkpoint_every == 9


def test_things_are_due_at_multiples_and_at_the_end():
    plan = make_plan(config(), 126)
    assert [step for step in range(1, 71) if plan.due(step, 20)] == [20, 40, 60, 70]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": None}, "steps=None and epochs=None: set exactly one"),
        ({"epochs": 2.0}, r"steps=70 and epochs=2\.0: set exactly one"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": None, "epochs": 0.0}, r"epochs=0\.0 must be a number above 0"),
        ({"steps": None, "epochs": float("inf")}, "epochs=inf must be a number above 0"),
        ({"validation__every": 0}, r"validation\.every=0 must be at least 1"),
        ({"validation__batches": 0}, r"validation\.batches=0 must be at least 1"),
        ({"checkpoint__keep": 0}, r"checkpoint\.keep=0 must be at least 1"),
        ({"checkpoint__keep_best": -1}, r"checkpoint\.keep_best=-1 must be at least 0"),
        ({"logging__every": 0}, r"logging\.every=0 must be at least 1"),
        ({"data__prefetch": -1}, r"data\.prefetch=-1 must be at least 0"),
        ({"data__batch_size": 0}, r"data\.batch_size=0 must be at least 1"),
        ({"max_nonfinite_steps": 0}, "max_nonfinite_steps=0 must be at least 1"),
    ],
)
def test_impossible_lengths(changes, says):
    with pytest.raises(UserError, match=says):
        make_plan(config(**changes), 126)
