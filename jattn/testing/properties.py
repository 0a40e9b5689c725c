"""The properties of an attention module, one function each: it raises an AssertionError where one does not hold.

What surrounds the module's compiled calls is NumPy: each operation of JAX outside of them would be one more program
to compile.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jattn import core
from jattn.errors import UserError
from jattn.testing.case import Case
from jattn.types import Array, Bool


def shapes(case: Case) -> None:
    """Output has the shape of x, and the dtype of the computation."""
    for fields, dtype in (({}, jnp.float32), ({"dtype": jnp.bfloat16}, jnp.bfloat16)):
        y = case.evaluate(case.tokens(), **fields)
        chex.assert_shape(y, (case.sizes.batch, case.sizes.tokens, case.sizes.width))
        chex.assert_type(y, dtype)


def batch_axes(case: Case) -> None:
    """None, one or two leading batch axes give the same."""
    x = case.tokens(case.sizes.outer, case.sizes.batch, case.sizes.tokens)
    mask = np.broadcast_to(case.mask[None], x.shape[:-1])
    two = np.asarray(case.evaluate(x, mask))
    chex.assert_shape(two, x.shape)
    _near(two[3], case.evaluate(x[3], mask[3]), "two batch axes", where=mask[3])
    _near(two[3, 1], case.evaluate(x[3, 1], mask[3, 1]), "no batch axis", where=mask[3, 1])


def parameters(case: Case) -> None:
    """`init` makes float32 parameters that all carry logical axis names, and nothing else."""
    variables = case.initial
    assert set(variables) <= {"params"}, f"init makes collections {sorted(variables)}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"], is_leaf=_is_boxed):
        name = jax.tree_util.keystr(path)
        assert _is_boxed(leaf), f"{name} has no logical axis names"
        assert len(leaf.names) == leaf.value.ndim, f"{name} of shape {leaf.value.shape} has axis names {leaf.names}"
        assert leaf.value.dtype == jnp.float32, f"{name} is {leaf.value.dtype}"


def hashable(case: Case) -> None:
    """Modules of equal fields are equal and hash alike, so that they are static arguments."""
    assert case.module() == case.module(), "two modules of equal fields differ"
    assert hash(case.module()) == hash(case.module()), "two modules of equal fields have different hashes"


def jit(case: Case) -> None:
    """Compiled and eager outputs agree."""
    x = case.tokens()
    eager = case.module().apply(case.variables, jnp.asarray(x), jnp.asarray(case.mask))
    _near(case.evaluate(x, case.mask), eager, "compiled and eager", where=case.mask)


def compiles_once(case: Case) -> None:
    """A second call with other values, of a module built anew, compiles nothing; nor does a second decoding step."""
    case.evaluate(case.tokens())
    with _compiles_nothing("a second call"):
        case.evaluate(case.tokens(seed=1))
    if not case.causal or "decode" in case.lacks:
        return
    token, real = case.tokens(case.sizes.batch, 1), np.ones((case.sizes.batch, 1), bool)
    _, cache = case.step(case.empty_cache, token, real)
    with _compiles_nothing("a second decoding step"):
        for _ in range(2):
            _, cache = case.step(cache, token, real)


def causality(case: Case) -> None:
    """Causal: outputs have a gradient of exactly zero with respect to later tokens. Otherwise: some do not."""
    looks_ahead = False
    for t in range(case.sizes.tokens):
        here = np.arange(case.sizes.tokens)[None, :, None] == t
        gradient = case.gradient_of_x(case.tokens(), cotangent=np.where(here, case.tokens(seed=1), 0))
        assert np.any(gradient[:, : t + 1] != 0), f"the output at {t} depends on no token up to {t}"
        ahead = bool(np.any(gradient[:, t + 1 :] != 0))
        assert not (case.causal and ahead), f"the output at {t} depends on a token after {t}"
        looks_ahead |= ahead
    assert case.causal or looks_ahead, "no output depends on a later token, though causal=False"


def padding(case: Case) -> None:
    """Changing a padded token changes no other output, and its own stays finite."""
    x = case.tokens()
    changed = np.where(case.mask[..., None], x, 100 * case.tokens(seed=2))
    before, after = case.evaluate(x, case.mask), case.evaluate(changed, case.mask)
    _near(after, before, "after a change of padded tokens", where=case.mask)
    _finite(after)


def truncation(case: Case) -> None:
    """Padding after the real tokens does not change their outputs."""
    if "truncation" in case.lacks:
        return
    x, real = case.tokens(), 3
    mask = np.broadcast_to(np.arange(case.sizes.tokens)[None] < real, x.shape[:2])
    padded = np.asarray(case.evaluate(x, mask))
    _near(padded[:, :real], case.evaluate(x[:, :real]), "with and without padding")


def empty_rows(case: Case) -> None:
    """Where nothing may be attended to, outputs and gradients are finite."""
    x = case.tokens()
    late = np.arange(case.sizes.tokens)[None] >= 2  # causal: the first two queries have no key
    mask = np.where(np.arange(case.sizes.batch)[:, None] == 0, False, late)
    _finite(case.differentiate(x, mask))


def segments(case: Case) -> None:
    """Packed sequences give what they give apart, and padding (segment 0) has no influence."""
    x, length = case.tokens(), case.sizes.tokens
    ids = np.asarray([[4, 4, 4, 2, 2, 2] + [0] * (length - 6)] * case.sizes.batch, np.int32)
    if "segments" in case.lacks:
        _refuses("segments", lambda: case.evaluate(x, ids))
        return
    packed = np.asarray(case.evaluate(x, ids))
    for part in (slice(0, 3), slice(3, 6)):
        _near(packed[:, part], case.evaluate(x[:, part]), "packed and apart")
    _finite(packed)


def pairs(case: Case) -> None:
    """A mask of pairs, shared by the heads or not, hides what it says and nothing else."""
    x, sizes = case.tokens(), case.sizes
    shape = (sizes.batch, sizes.heads, sizes.tokens, sizes.tokens)
    of_keys = np.broadcast_to(case.mask[:, None, None], shape)
    if "pairs" in case.lacks:
        _refuses("pairs", lambda: case.evaluate(x, of_keys))
        return
    expected = case.evaluate(x, case.mask)
    found, *_ = case.differentiate(x, of_keys)  # whose program serves below as well
    _near(found, expected, "a mask of pairs and one of keys", where=case.mask)
    _near(case.evaluate(x, of_keys[:, 0]), expected, "one mask for all heads", where=case.mask)
    # Query t of example 0 may attend to itself and to token 0 only: others have no influence on it.
    t, here = 3, np.arange(sizes.tokens)
    few = np.broadcast_to((here[:, None] != t) | (here[None] == t) | (here[None] == 0), shape)
    cotangent = np.where(here[None, :, None] == t, case.tokens(seed=1), 0)
    gradient = case.gradient_of_x(x, few, cotangent=cotangent)
    hidden = ~((here == t) | (here == 0))
    assert np.all(gradient[:, hidden] == 0), "a token that may not be attended to has an influence"
    _finite(case.differentiate(x, np.zeros(shape, bool)))


def context(case: Case) -> None:
    """Keys and values come from the context alone, where the mask says that its tokens are real."""
    x, other = case.tokens(), case.tokens(case.sizes.batch, case.sizes.context, seed=3)
    mask = np.broadcast_to(np.arange(case.sizes.context)[None] % 3 != 1, other.shape[:2])
    if "context" in case.lacks:
        _refuses("context", lambda: case.evaluate(x, mask, other))
        return
    y = np.asarray(case.evaluate(x, mask, other))
    chex.assert_shape(y, x.shape)
    assert not np.allclose(y, case.evaluate(x, mask, -other)), "the context has no influence"
    changed = np.where(mask[..., None], other, 100 * case.tokens(*other.shape[:2], seed=4))
    _near(case.evaluate(x, mask, changed), y, "after a change of padded context")
    queries = np.where(np.arange(case.sizes.tokens)[None, :, None] == 0, x, -x)
    _near(np.asarray(case.evaluate(queries, mask, other))[:, 0], y[:, 0], "after a change of other queries")


def decode(case: Case) -> None:
    """Token by token, or in chunks, a cache gives what one pass over all tokens gives."""
    if "decode" in case.lacks or not case.causal:
        _refuses("decode", lambda: case.module(decode=True))
        return
    x, length = case.tokens(), case.sizes.tokens
    mask = np.arange(length)[None] > np.arange(case.sizes.batch)[:, None]  # padded on the left
    full = np.asarray(case.evaluate(x, mask))
    for lengths in ([1] * length, [3, 3] + [1] * (length - 6)):
        cache, start = case.empty_cache, 0
        for new in lengths:
            part = slice(start, start + new)
            y, cache = case.step(cache, x[:, part], mask[:, part])
            _near(y, full[:, part], f"decoding in chunks of {lengths}, from token {start}", where=mask[:, part])
            start += new


def rotary(case: Case) -> None:
    """Rotary positions change the output, and decoding counts them on."""
    if "rotary" in case.lacks:
        _refuses("rotary", lambda: case.module(rotary=True))
        return
    x = case.tokens()
    full = np.asarray(case.evaluate(x, rotary=True))
    assert not np.allclose(full, case.evaluate(x, rotary=False), atol=1e-5), (
        "rotary=True has no influence: turn queries and keys by self.turned(inputs, q, k)"
    )
    if "decode" in case.lacks or not case.causal:
        return
    module, cache = case.module(rotary=True, decode=True), case.empty_cache
    for t in range(case.sizes.tokens):
        y, cache = case.step(cache, x[:, t : t + 1], None, module)
        _near(y, full[:, t : t + 1], f"decoding token {t} with rotary positions")


def bfloat16(case: Case) -> None:
    """bfloat16 stays near float32."""
    exact = np.asarray(case.evaluate(case.tokens()))
    near = np.asarray(case.evaluate(case.tokens(), dtype=jnp.bfloat16)).astype(np.float32)
    _near(near, exact, "bfloat16 and float32", atol=0.05 * float(np.max(np.abs(exact))))


def implementations(case: Case) -> None:
    """Every implementation that can serve, dense among them, gives the same value and gradients."""
    x = case.tokens()
    if "implementations" in case.lacks:
        _refuses("implementations", lambda: case.evaluate(x, implementation="dense"))
        return
    compared = []
    for name in core.native_implementations():
        for mask in (case.mask, None):
            try:
                found = case.differentiate(x, mask, implementation=name)
            except UserError as error:
                if "cannot serve" not in str(error):
                    raise
                continue
            expected = case.differentiate(x, mask)
            jax.tree.map(functools.partial(_near, what=f"{name} and the one chosen"), found, expected)
            compared.append(name)
            break
    assert {"dense"} < set(compared), f"only {compared} serve this mechanism"


def batch_independence(case: Case) -> None:
    """An example's output does not depend on the others."""
    first = np.arange(case.sizes.batch)[:, None, None] == 0
    cotangent = np.where(first, case.tokens(seed=1), 0)
    gradient = case.gradient_of_x(case.tokens(), case.mask, cotangent=cotangent)
    assert np.any(gradient[0] != 0), "an example's output does not depend on its own tokens"
    assert np.all(gradient[1:] == 0), "an example's output depends on another example's tokens"


def gradients(case: Case) -> None:
    """Gradients are finite for all parameters, and not all zero."""
    _, of_parameters, of_x = case.differentiate(case.tokens(), case.mask)
    for name, tree in (("params", of_parameters), ("x", of_x)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            assert np.all(np.isfinite(leaf)), f"the gradient of {name}{jax.tree_util.keystr(path)} is not finite"
        assert any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(tree)), f"the gradient of {name} is zero"


def deterministic(case: Case) -> None:
    """Evaluation needs no rng, is not moved by one, and has no dropout."""
    fields = {} if "dropout" in case.lacks else {"dropout_rate": 0.5}
    x = case.tokens()
    jax.eval_shape(case.module(**fields).apply, case.variables, x)  # raises where an rng is asked for
    y, again = (case.train(x, jax.random.key(seed), deterministic=True, **fields) for seed in range(2))
    assert np.array_equal(y, again), "evaluation depends on the rng"
    _near(y, case.evaluate(x), "evaluation with and without a dropout rate")


def dropout(case: Case) -> None:
    """Training with dropout is a function of the rng, and is not evaluation."""
    x = case.tokens()
    if "dropout" in case.lacks:
        _refuses("dropout", lambda: case.evaluate(x, dropout_rate=0.5))
        return
    one, same, other = (case.train(x, jax.random.key(seed), dropout_rate=0.5) for seed in (1, 1, 2))
    assert np.array_equal(one, same), "the same rng gives two outputs"
    assert not np.allclose(one, other), "the rng has no influence"
    assert not np.allclose(one, case.evaluate(x)), "dropout does nothing"


def weights(case: Case) -> None:
    """`weights` are (*B, H, T, S) in float32, zero for what may not be attended to; probabilities sum to 1."""
    sizes = case.sizes
    queries, keys = (sizes.heads, sizes.tokens), (sizes.tokens,)
    found = np.asarray(case.weights(case.tokens(), case.mask))
    chex.assert_shape(found, (sizes.batch, *queries, *keys))
    outer = case.tokens(sizes.outer, sizes.batch, sizes.tokens)
    chex.assert_shape(jax.eval_shape(case.weights, outer), (sizes.outer, sizes.batch, *queries, *keys))
    if "context" not in case.lacks:
        other = case.tokens(sizes.batch, sizes.context)
        crossed = jax.eval_shape(lambda x: case.weights(x, None, other), case.tokens())
        chex.assert_shape(crossed, (sizes.batch, *queries, sizes.context))
    chex.assert_type(found, jnp.float32)
    pairs = np.tril(np.ones(keys * 2, bool)) if case.causal else np.ones(keys * 2, bool)
    allowed = case.mask[:, None, None, :] & pairs[None, None]
    assert np.any(found != 0), "all weights are zero"
    assert np.all(np.where(allowed, 0, found) == 0), "a pair that may not attend has a weight"
    if "probabilities" not in case.lacks:
        assert np.all(found >= 0), "a weight is negative"
        sums, real = found.sum(-1), np.broadcast_to(case.mask[:, None], found.shape[:-1])
        _near(sums, np.ones_like(sums), "sums of weights and one", where=real)


def cost(case: Case) -> None:
    """`cost` counts the parameters exactly, and FLOPs and bytes that grow with the length."""
    module, sizes = case.module(), case.sizes
    short, long = (module.cost(n, width=sizes.width, batch=sizes.batch) for n in (sizes.tokens, 2 * sizes.tokens))
    count = sum(leaf.size for leaf in jax.tree.leaves(case.variables["params"]))
    assert short.params == count, f"cost counts {short.params} parameters, there are {count}"
    assert 0 < short.flops < long.flops, "FLOPs do not grow with the length"
    assert 0 < short.bytes < long.bytes, "bytes do not grow with the length"


def energies(case: Case) -> None:
    """The energy is a finite positive scalar, to which padding contributes nothing and gradients do not flow."""

    def energy(params: Any, x: Array, mask: Array) -> tuple[Any, list[Array]]:
        variables = {**case.variables, "params": params}
        _, sown = case.module().apply(variables, x, mask, mutable=["energies"])
        return sum((leaf.sum() for leaf in jax.tree.leaves(sown)), start=jnp.zeros(())), jax.tree.leaves(sown)

    x = case.tokens()
    compiled = jax.jit(jax.grad(energy, has_aux=True))
    slopes, found = compiled(case.variables["params"], x, case.mask)
    if "energies" in case.lacks:
        assert not found, "energies are declared as lacking, but reported"
        return
    assert len(found) == 1, f"{len(found)} energies are reported"
    chex.assert_shape(found[0], ())
    assert 0 < float(found[0]) < np.inf, f"the energy is {found[0]}"
    assert all(np.all(np.asarray(slope) == 0) for slope in jax.tree.leaves(slopes)), "the energy has a gradient"
    changed = np.where(case.mask[..., None], x, 100 * case.tokens(seed=2))
    _, after = compiled(case.variables["params"], changed, case.mask)
    _near(after[0], found[0], "the energy after a change of padded tokens")


def _compiles_nothing(what: str) -> contextlib.AbstractContextManager[None]:
    """Where no module may be called in Python: what is compiled does not need it."""

    def refuse(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        assert context.method_name != "__call__", f"{what} compiles anew"
        return method(*args, **kwargs)

    return nn.intercept_methods(refuse)


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _near(
    found: ArrayLike,
    expected: ArrayLike,
    what: str,
    *,
    atol: float = 2e-5,
    rtol: float = 1e-4,
    where: Bool[np.ndarray, "..."] | None = None,
) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    chosen = ... if where is None else np.asarray(where)
    np.testing.assert_allclose(found[chosen], expected[chosen], atol=atol, rtol=rtol, err_msg=what)


def _finite(tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.all(np.isfinite(leaf)), f"not finite: {jax.tree_util.keystr(path)}"


def _refuses(feature: str, ask: Callable[[], Any]) -> None:
    try:
        ask()
    except (ValueError, TypeError):  # or a module that has no such field or argument
        return
    raise AssertionError(f"{feature}: not to be had, but not refused either")
