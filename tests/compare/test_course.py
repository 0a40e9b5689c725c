"""What is read off a run's files, by hand."""

import pytest

from jattn.compare import course

METRICS = """step,epoch,train/loss,valid/loss,valid/accuracy
2,0.1,2.3,,
4,0.2,2.1,2.0,0.25
8,0.4,1.9,1.5,0.75
10,0.5,1.8,1.6,0.5
"""
TIMING = """step,seconds,steps_per_second,examples_per_second,peak_memory_bytes
2,9.0,,,1000
4,10.0,2.0,32.0,3000
8,11.0,8.0,128.0,2000
10,12.0,4.0,64.0,2000
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "timing.csv").write_text(TIMING)
    return tmp_path


def test_a_run_s_course(folder):
    found = course.read_course(folder, "loss")
    assert found == course.Course((4, 8, 10), (2.0, 1.5, 1.6), 4.0, 3000)
    # Two trapezia: 4 steps of mean height 1.75, 2 steps of 1.55.
    assert course.area(found) == pytest.approx((4 * 1.75 + 2 * 1.55) / 6)
    assert [course.steps_to(found, value, higher=False) for value in (2.0, 1.6, 1.4)] == [4, 8, None]
    assert course.best(found, higher=False) == 1.5


def test_more_is_better_for_accuracy(folder):
    found = course.read_course(folder, "accuracy")
    assert [course.steps_to(found, value, higher=True) for value in (0.25, 0.5, 0.76)] == [4, 8, None]
    assert course.best(found, higher=True) == 0.75
    other = course.Course((10,), (0.6,), None, None)
    assert course.threshold([found, other], higher=True) == 0.6
    assert course.threshold([found, other], higher=False) == 0.6
    assert course.threshold([], higher=True) is None
    assert course.area(other) == 0.6
