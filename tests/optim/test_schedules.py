import math

import pytest

from jattn.config import OptimConfig
from jattn.errors import UserError
from jattn.optim.schedules import schedule


def rates(steps, total, **options):
    function = schedule(OptimConfig(learning_rate=0.8, **options), total)
    return pytest.approx([float(function(step)) for step in steps], rel=1e-6)


def test_constant():
    assert rates([0, 7, 1000], 10, schedule="constant") == [0.8, 0.8, 0.8]


def test_plateau_is_constant_before_its_factor():
    assert rates([0, 7, 1000], 10, schedule="plateau") == [0.8, 0.8, 0.8]


def test_cosine_ends_at_the_final_fraction():
    expected = [0.8, 0.2 + 0.6 * (1 + math.cos(math.pi / 4)) / 2, 0.5, 0.2, 0.2]
    assert rates([0, 25, 50, 100, 130], 100, schedule="cosine", final_fraction=0.25) == expected


def test_linear_ends_at_the_final_fraction():
    assert rates([0, 25, 100], 100, schedule="linear", final_fraction=0.25) == [0.8, 0.65, 0.2]


def test_step_decays_every_step_size():
    options = {"schedule": "step", "step_size": 30, "step_gamma": 0.5}
    assert rates([0, 29, 30, 59, 60, 90], 100, **options) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.1]


def test_step_stops_decaying_at_its_limit():
    options = {"schedule": "step", "step_size": 30, "step_gamma": 0.5}
    assert rates([29, 30, 60, 1000], 100, step_limit=1, **options) == [0.8, 0.4, 0.4, 0.4]
    assert rates([59, 60, 61, 90], 100, step_limit=2, warmup_steps=1, **options) == [0.4, 0.4, 0.2, 0.2]


def test_warmup_rises_from_zero_and_decays_count_from_its_end():
    options = {"schedule": "linear", "warmup_steps": 20}
    assert rates([0, 5, 20, 60, 100], 100, **options) == [0.0, 0.2, 0.8, 0.4, 0.0]
    options = {"schedule": "step", "step_size": 30, "step_gamma": 0.5, "warmup_steps": 20}
    assert rates([10, 20, 49, 50], 100, **options) == [0.4, 0.8, 0.8, 0.4]


def test_warmup_may_fill_the_run_but_not_exceed_it():
    assert rates([0, 5, 9], 10, schedule="cosine", warmup_steps=10) == [0.0, 0.4, 0.72]
    with pytest.raises(UserError, match=r"warmup_steps=11 .* 10 steps"):
        schedule(OptimConfig(warmup_steps=11), 10)


def test_unknown_schedule_names_the_nearest():
    with pytest.raises(UserError, match="unknown schedule 'cosin': did you mean 'cosine'"):
        schedule(OptimConfig(schedule="cosin"), 10)
