"""Checkpoints: what is kept, what is detected, what is refused."""

import json
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jattn.config import CheckpointConfig
from jattn.errors import UserError
from jattn.training import checkpoint as checkpoint_lib
from jattn.training.checkpoint import Checkpoints, damage


def make_state(value, width=3):
    """Every kind of leaf a training state has: nested dicts, empty optax tuples, None, bfloat16, integers."""
    params = {"dense": {"kernel": jnp.full((width, 5), float(value)), "bias": jnp.full((5,), value, jnp.bfloat16)}}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(0.1))
    return {"step": jnp.int32(value), "params": params, "opt_state": optimizer.init(params), "ema": None}


def target_of(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def make(tmp_path, warnings):
    opened = []

    def make(read_only=False, **options):
        config = CheckpointConfig(**options)
        opened.append(Checkpoints(tmp_path / "checkpoints", config, warn=warnings.append, read_only=read_only))
        return opened[-1]

    yield make
    for checkpoints in opened:
        checkpoints.close()


def save_all(checkpoints, losses):
    for step, loss in losses.items():
        metrics = None if loss is None else {"valid/loss": loss}
        checkpoints.save(step, make_state(step), {"note": 0.1 + step}, metrics)
    checkpoints.close()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def array_file(folder):
    return max((path for path in folder.glob("state/**/d/*") if path.is_file()), key=lambda p: p.stat().st_size)


def test_gives_back_every_leaf_and_the_info(make):
    state = make_state(7)
    save_all(make(), {7: None})
    restored, info = make().restore(target_of(state))
    chex.assert_trees_all_equal(restored, state)
    chex.assert_trees_all_equal_dtypes(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert info == {"format_version": 1, "step": 7, "note": 7.1}


def test_buffers_may_be_donated_as_soon_as_save_returns(make):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf - 1, state), donate_argnums=0)
    big = {"a": jnp.full((1024, 1024), 5.0), "b": jnp.full((512, 1024), 6.0)}
    jax.block_until_ready(overwrite(jax.tree.map(jnp.copy, big)))  # compiled: nothing delays the donation
    checkpoints = make(keep=5)
    for step in range(4):
        state = jax.tree.map(lambda leaf, step=step: leaf + step, big)
        expected = jax.tree.map(lambda leaf, step=step: np.asarray(leaf) + step, big)
        checkpoints.save(step, state, {}, None)
        for _ in range(3):
            state = overwrite(state)
        jax.block_until_ready(state)
        restored, _ = make().restore(target_of(big), step) if checkpoints.wait() is None else None
        chex.assert_trees_all_equal(restored, expected)


def test_keeps_the_newest_and_the_best(make):
    save_all(make(keep=2, keep_best=1), {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 4.0, 6: None})
    assert make().steps() == [2, 5, 6]
    assert make().restore(target_of(make_state(0)), "best")[1]["step"] == 2
    assert make().restore(target_of(make_state(0)), "newest")[1]["step"] == 6


def test_the_best_survives_a_restart_of_the_process(make):
    save_all(make(keep=1), {1: 1.0, 2: 2.0})
    save_all(make(keep=1), {3: 3.0, 4: 4.0})
    assert make().steps() == [1, 4]


def test_largest_is_best_when_the_mode_says_so(make):
    save_all(make(keep=1, best_mode="max"), {1: 1.0, 2: 5.0, 3: float("nan"), 4: 2.0})
    assert make().steps() == [2, 4]
    assert make(best_mode="max").restore(target_of(make_state(0)), "best")[1]["step"] == 2


def test_not_a_number_is_never_the_best(make):
    save_all(make(keep=1), {1: float("nan"), 2: 5.0, 3: 6.0})
    assert make().steps() == [2, 3]
    assert make().restore(target_of(make_state(0)), "best")[1]["step"] == 2


def test_best_of_checkpoints_that_were_never_validated_is_refused(make):
    save_all(make(), {3: None})
    with pytest.raises(UserError, match=r"validated.*valid/loss.*newest or one of 3"):
        make().restore(target_of(make_state(0)), "best")


def test_every_file_is_protected(make, tmp_path):
    save_all(make(), {1: 2.0})
    folder = tmp_path / "checkpoints" / "1"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "_CHECKPOINT_METADATA"]
    assert {"metadata", "metrics", "checksums.json", "_METADATA"} <= {path.name for path in files}
    for path in files:
        if path.stat().st_size == 0:
            continue
        whole = path.read_bytes()
        flip_a_bit(path)
        fault = damage(folder)
        if path.name == "checksums.json":
            assert fault is not None
        elif path.relative_to(folder).parts != ("commit_success.txt",):  # written at the commit, holds nothing
            assert str(path) in fault
        path.write_bytes(whole)
        assert damage(folder) is None


def test_the_file_no_checksum_covers_does_not_matter(make, tmp_path):
    save_all(make(), {1: 2.0})
    flip_a_bit(tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA")
    checkpoints = make()
    restored, _ = checkpoints.restore(target_of(make_state(1)))
    chex.assert_trees_all_equal(restored, make_state(1))
    save_all(checkpoints, {2: 1.0})
    assert make().steps() == [1, 2]


def test_a_flipped_bit_is_found_named_and_moved_aside(make, tmp_path, warnings):
    save_all(make(), {1: 1.0, 2: 2.0})
    broken = array_file(tmp_path / "checkpoints" / "2")
    flip_a_bit(broken)
    restored, info = make().restore(target_of(make_state(0)))
    assert info["step"] == 1
    chex.assert_trees_all_equal(restored, make_state(1))
    assert len(warnings) == 1
    assert str(broken) in warnings[0]
    assert make().steps() == [1]
    assert array_file(tmp_path / "damaged" / "2").name == broken.name


def test_two_damaged_checkpoints_of_one_step_are_both_kept(make, tmp_path):
    for _ in range(2):
        save_all(make(), {2: None} if make().steps() else {1: None, 2: None})
        flip_a_bit(array_file(tmp_path / "checkpoints" / "2"))
        make().restore(target_of(make_state(0)))
    assert sorted(entry.name for entry in (tmp_path / "damaged").iterdir()) == ["2", "2-2"]


@pytest.mark.parametrize("name", ["checksums.json", "info/metadata"])
def test_a_missing_file_is_damage(name, make, tmp_path, warnings):
    save_all(make(), {1: None, 2: None})
    (tmp_path / "checkpoints" / "2" / name).unlink()
    assert make().restore(target_of(make_state(0)))[1]["step"] == 1
    assert name in warnings[0]


def test_reading_only_moves_nothing(make, tmp_path, warnings):
    save_all(make(), {1: None, 2: None})
    flip_a_bit(array_file(tmp_path / "checkpoints" / "2"))
    assert make(read_only=True).restore(target_of(make_state(0)))[1]["step"] == 1
    assert make().steps() == [1, 2]
    assert "checkpoint 1 is used" in warnings[0]


def test_all_damaged_is_refused_and_nothing_is_moved(make, tmp_path):
    save_all(make(), {1: None, 2: None})
    broken = [array_file(tmp_path / "checkpoints" / name) for name in "12"]
    for path in broken:
        flip_a_bit(path)
    with pytest.raises(UserError, match=r"every checkpoint.*damaged") as caught:
        make().restore(target_of(make_state(0)))
    assert all(str(path) in str(caught.value) for path in broken)
    assert make().steps() == [1, 2]


def test_a_damaged_step_asked_for_by_number_has_no_substitute(make, tmp_path):
    save_all(make(), {1: None, 2: None})
    flip_a_bit(array_file(tmp_path / "checkpoints" / "2"))
    with pytest.raises(UserError, match="choose another step"):
        make().restore(target_of(make_state(0)), 2)


def test_an_absent_step_names_those_there_are(make):
    save_all(make(), {1: None, 2: None})
    with pytest.raises(UserError, match="no checkpoint 7: choose best, newest or one of 1, 2"):
        make().restore(target_of(make_state(0)), 7)


def test_no_checkpoint_at_all(make):
    with pytest.raises(UserError, match="holds no checkpoint"):
        make().restore(target_of(make_state(0)))


def test_other_shapes_are_refused_with_paths_and_shapes(make):
    save_all(make(), {1: None})
    with pytest.raises(UserError, match=r"params/dense/kernel is \(3, 5\) float32 .* \(7, 5\) float32"):
        make().restore(target_of(make_state(0, width=7)))


def test_a_partial_restore_is_refused(make):
    save_all(make(), {1: None})
    wider = make_state(0) | {"extra": jnp.zeros(2)}
    with pytest.raises(UserError, match="extra is missing in the checkpoint"):
        make().restore(target_of(wider))
    narrower = make_state(0)
    del narrower["params"]["dense"]["bias"]
    with pytest.raises(UserError, match="params/dense/bias is only in the checkpoint"):
        make().restore(target_of(narrower))


def test_another_format_is_refused(make, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_lib, "FORMAT_VERSION", 99)
        save_all(make(), {1: None})
    with pytest.raises(UserError, match="format 99, this jattn reads 1"):
        make().restore(target_of(make_state(0)))


def test_saving_what_was_just_restored_changes_nothing(make):
    save_all(make(), {1: None})
    checkpoints = make()
    state, _ = checkpoints.restore(target_of(make_state(0)))
    checkpoints.save(1, state, {}, None)
    checkpoints.close()
    assert make().restore(target_of(make_state(0)))[1]["note"] == 1.1


def test_a_step_on_disk_is_never_overwritten(make):
    save_all(make(), {1: None})
    with pytest.raises(FileExistsError, match="not overwritten"):
        make().save(1, make_state(9), {}, None)
    chex.assert_trees_all_equal(make().restore(target_of(make_state(0)))[0], make_state(1))


def test_checksums_are_committed_with_the_step(make, tmp_path):
    """At no moment does a committed checkpoint lack its checksums: a process may die at any moment."""
    seen, finished = set(), threading.Event()

    def watch():
        while not finished.is_set():
            for folder in (tmp_path / "checkpoints").glob("[0-9]"):
                seen.add((folder.name, (folder / "checksums.json").exists()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    save_all(make(keep=9), dict.fromkeys(range(6)))
    finished.set()
    watcher.join()
    assert seen
    assert all(has_sums for _, has_sums in seen)
    sums = json.loads((tmp_path / "checkpoints" / "5" / "checksums.json").read_text())
    assert len(sums) > 5
