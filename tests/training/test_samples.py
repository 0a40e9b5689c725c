"""Texts sampled during training: where they go, and that they change nothing."""

import json
import math

import pytest

from jattn.errors import UserError
from jattn.training import setup, train
from jattn.training.metrics import read_csv
from jattn.training.trained import open_trained
from tests import runs
from tests.training.test_metrics import read_events


def config(**options):
    made = runs.get_config("python_docs_lm", "smoke")
    for name, value in ({"sample_every": 5, "sample_count": 3, "sample_tokens": 9} | options).items():
        setattr(made.logging, name, value)
    return made


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled") / "run"
    train(config(tensorboard=True), folder)
    return folder


def lines(folder):
    """(step, number, prompt, text) of the samples in the log."""
    found = [line for line in (folder / "log.txt").read_text().splitlines() if "  sample " in line]
    for line in found:
        step, rest = line.removeprefix("step ").split("/12  sample ")
        number, pair = rest.split(": ", 1)
        prompt, text = pair.split(" -> ")
        yield int(step), int(number), json.loads(prompt), json.loads(text)


def test_samples_go_to_the_log_and_to_tensorboard(sampled):
    found = list(lines(sampled))
    assert [(step, number) for step, number, *_ in found] == [(step, n) for step in (5, 10, 12) for n in range(3)]
    assert len({prompt for *_, prompt, _ in found}) == 3
    assert len({text for *_, text in found}) == 9
    assert all(len(prompt.encode()) == 16 and 0 < len(text) <= 9 for *_, prompt, text in found)
    shown = {(step, tag): text for step, tag, text in read_events(sampled / "tensorboard") if tag.startswith("sample/")}
    assert len(shown) == 9
    for step, number, prompt, text in found:
        assert shown[step, f"sample/{number}/text_summary"].replace("\n    ", "\n") == "    " + prompt + text


def test_a_run_is_the_same_with_and_without_samples(sampled, tmp_path_factory):
    other = runs.smoke_run(tmp_path_factory, "python_docs_lm")
    assert (sampled / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()


def test_the_same_step_gives_the_same_texts(sampled):
    experiment, params, step = open_trained(sampled, "newest")
    texts = experiment.sampler(step, params)
    assert [(12, i, sample.prompt, sample.text) for i, sample in enumerate(texts)] == list(lines(sampled))[-3:]


def test_validation_says_what_papers_report(sampled):
    columns = read_csv(sampled / "metrics.csv")
    loss = columns["valid/loss"][-1]
    assert columns["valid/perplexity"][-1] == math.exp(loss)
    assert columns["valid/bits_per_byte"][-1] == columns["valid/bits_per_token"][-1] == loss / math.log(2)
    assert columns["valid/bits_per_character"][-1] >= columns["valid/bits_per_byte"][-1]
    assert columns["valid/perplexity"][0] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sample_prompt": "x" * 32}, "logging.sample_prompt has 32 tokens: .* context of 32 tokens"),
        ({"sample_every": 0}, "logging.sample_every=0 must be at least 1"),
        ({"sample_count": 0}, "logging.sample_count=0 must be at least 1"),
    ],
)
def test_what_cannot_be_sampled(options, says):
    with pytest.raises(UserError, match=says):
        setup.build(config(**options))


def test_a_classifier_has_no_samples():
    made = runs.get_config("digits_vit", "smoke")
    made.logging.sample_every = 3
    with pytest.raises(UserError, match=r"logging\.sample_every=3 asks for texts, which model vision_transformer on"):
        setup.build(made)
