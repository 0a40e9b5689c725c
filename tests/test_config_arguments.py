"""Words after the colon of a config file."""

import pytest

from jattn.config_arguments import choose
from jattn.errors import UserError

GROUPS = {"layer": ("attention", "kvt"), "data": ("cifar10", "cifar100"), "size": ("", "smoke")}


def test_words_in_any_order_and_defaults():
    assert choose("", "x.py", GROUPS) == {"layer": "attention", "data": "cifar10", "size": ""}
    assert choose("smoke, cifar100", "x.py", GROUPS) == {"layer": "attention", "data": "cifar100", "size": "smoke"}


def test_an_unknown_word_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown argument of x\.py 'smok': did you mean 'smoke'\?"):
        choose("kvt,smok", "x.py", GROUPS)


def test_two_words_of_one_group():
    with pytest.raises(UserError, match=r"x\.py takes one data, not both cifar10 and cifar100"):
        choose("cifar10,cifar100", "x.py", GROUPS)
