"""Models of one size, and runs of one length."""

import jax
import pytest

from jattn import data
from jattn.compare import matching
from jattn.compare.budget import Budget, budgeted, parse_budget, tokens_per_step
from jattn.compare.grid import cells, parse_axis
from jattn.errors import UserError
from jattn.training import setup

DIGITS = "configs/digits_vit.py"


def grid(config, *axes):
    made = cells(config, [parse_axis(text) for text in axes], [])
    return made, data.build(made[0].config.data)


@pytest.mark.parametrize("by", matching.QUANTITIES)
def test_matched_models_agree(by):
    made, dataset = grid(f"{DIGITS}:smoke", "arg=softmax,efficient,branching_conv,natural")
    found, said = matching.matched(made, made[0], by, dataset)
    target = getattr(matching.size_of(made[0].config, dataset), by)
    assert [cell.name for cell in found] == [cell.name for cell in made]
    assert found[0] is made[0]
    assert found[3] is made[3]  # of the same size already
    for before, after in list(zip(made, found, strict=True))[1:3]:
        assert abs(getattr(matching.size_of(before.config, dataset), by) - target) > 0.02 * target
        assert abs(getattr(matching.size_of(after.config, dataset), by) - target) <= 0.01 * target
        assert after.flags[-1] == f"--config.model.mlp_dim={after.config.model.mlp_dim}"
    assert len(said) == 2
    assert said[0].startswith(f"efficient: model.mlp_dim 64 -> {found[1].config.model.mlp_dim}, so that it has ")


def test_what_is_near_enough_stays_as_it_is_and_says_so():
    made, dataset = grid(f"{DIGITS}:smoke", "arg=softmax,adaptive_span")
    found, said = matching.matched(made, made[0], "params", dataset)
    assert found == made
    assert said[0].startswith("adaptive_span: model.mlp_dim stays 64, with which it has ")


def test_params_are_those_that_are_trained():
    made, dataset = grid(f"{DIGITS}:smoke", "arg=super")
    state = setup.build(made[0].config).parallel.abstract_state
    assert matching.size_of(made[0].config, dataset).params == sum(leaf.size for leaf in jax.tree.leaves(state.params))


def test_what_cannot_be_matched():
    made, dataset = grid(f"{DIGITS}:smoke", "model.width=16,64")
    with pytest.raises(UserError, match=r"'64' cannot be matched to '16': with model.mlp_dim=1 it has [\d,]+ param"):
        matching.matched(made, made[0], "params", dataset)
    made, dataset = grid(f"{DIGITS}:smoke", "model.mlp_dim=16,64")
    with pytest.raises(UserError, match=r"model\.mlp_dim, which is an axis"):
        matching.matched(made, made[0], "params", dataset)


def test_budgets_as_they_are_typed():
    assert parse_budget("tokens") == Budget("tokens", None)
    assert parse_budget("tokens=2e6") == Budget("tokens", 2e6)
    for text, says in [
        ("hours", "unknown budget 'hours'"),
        ("steps=", "above 0"),
        ("steps=0", "above 0"),
        ("steps=x", "above 0"),
    ]:
        with pytest.raises(UserError, match=says):
            parse_budget(text)


def lengths(made, dataset, text, rates=None):
    found = budgeted(made, made[0], parse_budget(text), dataset, lambda some: rates)
    return [cell.config.steps for cell in found]


def test_every_cell_gets_the_budget():
    made, dataset = grid(DIGITS, "model.patch_size=2,4", "data.batch_size=64,32")
    assert [tokens_per_step(cell.config, dataset) for cell in made] == [16 * 64, 16 * 32, 4 * 64, 4 * 32]
    assert lengths(made, dataset, "steps") == [1000] * 4
    assert lengths(made, dataset, "steps=30") == [30] * 4
    assert lengths(made, dataset, "tokens") == [1000, 2000, 4000, 8000]
    assert lengths(made, dataset, "tokens=1024") == [1, 2, 4, 8]
    rates = dict(zip((cell.name for cell in made), (10.0, 20.0, 5.0, 40.0), strict=True))
    assert lengths(made, dataset, "seconds=7", rates) == [70, 140, 35, 280]
    assert lengths(made, dataset, "seconds", rates) == [1000, 2000, 500, 4000]  # 100 seconds, as the first needs


def test_epochs_are_replaced():
    made = cells(DIGITS, [parse_axis("arg=softmax,kvt")], ["--config.steps=None", "--config.epochs=2"])
    dataset = data.build(made[0].config.data)
    assert lengths(made, dataset, "steps") == [None, None]
    found = budgeted(made, made[0], parse_budget("tokens"), dataset, lambda some: {})
    assert {(cell.config.steps, cell.config.epochs) for cell in found} == {
        (setup.make_plan(made[0].config, dataset.size("train")).total, None)
    }


def test_what_is_no_equal_budget():
    made, dataset = grid(DIGITS, "arg=softmax;softmax,smoke")
    with pytest.raises(UserError, match=r"'softmax' has 1000 steps and 'softmax,smoke' 12.*--budget steps=1000"):
        lengths(made, dataset, "steps")
    with pytest.raises(UserError, match=r"less than one step of 'softmax'"):
        lengths(made, dataset, "tokens=5")
    made, dataset = grid(DIGITS, "steps=3,4")
    assert lengths(made, dataset, "steps") == [3, 4]
    with pytest.raises(UserError, match="--budget sets steps, which is an axis"):
        lengths(made, dataset, "tokens")
