"""`python -m jattn bench attention`: time and memory of the attention core and of every mechanism.

    python -m jattn bench attention                                          two scores in the core, dense and blockwise
    python -m jattn bench attention --mechanisms "softmax, neural(projection_dim=4)" --lengths 256,1024,4096 --peers

Every row of one length and direction is measured in the same run, repetition by repetition in turn, so that ratios hold
on a machine that does other things too. A row whose memory does not suffice, or whose mechanism cannot do what is
asked, says so. `docs/performance.md` defines the columns.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax

from jattn.attention import cost
from jattn.attention.mechanism import Mechanism, mechanism
from jattn.bench import peers, results, table, torch_calls
from jattn.bench.apart import apart
from jattn.bench.candidate import Candidate, Measured, compiled, matmul_rate, measure, ratio, row
from jattn.bench.kernel import kernel
from jattn.core import IMPLEMENTATIONS, Causal, Dot, attend
from jattn.errors import UserError, unknown
from jattn.literals import parse_calls
from jattn.types import Array, Float, Int, Tokens

SCORES = ("dot", "network")
PARTS = ("kernel", "module")
DIRECTIONS = ("forward", "train")
TRAIN_FLOPS = 3
"""FLOPs of forward and backward over those of forward: each product has two in the backward pass."""

CHOSEN = "chosen"
"""The implementation that a module takes when none is named."""

Case = tuple[tuple[str, Any], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoFeatureNetwork:
    """A small ReLU network on two features of each token: a learned score to measure the core with.

    hidden: (H, 3); output: (H, 2). Not annotated, since compilation keeps other things than arrays in their places.
    """

    hidden: Any
    output: Any

    def __call__(self, q: Tokens, k: Tokens, q_pos: Int[Array, " t"], k_pos: Int[Array, " s"]) -> Float[Array, "t s"]:
        """w3 relu(w21 relu(a1 + b1) + w22 relu(a2 + b2) + c2) + c3."""
        first, second = (jax.nn.relu(a[:, None] + b[None, :]) for a, b in zip(q, k, strict=True))
        hidden = jax.nn.relu(self.hidden[0] * first + self.hidden[1] * second + self.hidden[2])
        return self.output[0] * hidden + self.output[1]


_NETWORK_FLOPS = 11
"""Of a pair: two sums and ReLUs, two products, two sums and a ReLU, one product and sum."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--batch", type=int, default=1, help="examples (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=8, help="query and key heads (default: %(default)s)")
    parser.add_argument("--head_dim", type=int, default=64, help="features of a head (default: %(default)s)")
    parser.add_argument(
        "--lengths", default="1024", help="query and key tokens, comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--scores", help=f"of {', '.join(SCORES)}, in the core by itself (default: all, none with --mechanisms)"
    )
    parser.add_argument("--mechanisms", default="", help='such as "softmax, neural(projection_dim=4)" (default: none)')
    parser.add_argument(
        "--parts",
        default=",".join(PARTS),
        help="of a mechanism: kernel (without its projections), module (default: %(default)s)",
    )
    parser.add_argument(
        "--implementations",
        help=f"of {', '.join((CHOSEN, *IMPLEMENTATIONS))}; ratios refer to the first "
        f"(default: dense,blockwise for scores, {CHOSEN} for mechanisms)",
    )
    parser.add_argument("--direction", default="train", help="of forward, train (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--full", action="store_true", help="every key for every query instead of causal")
    parser.add_argument("--peers", action="store_true", help="the mechanisms' PyTorch peers in the same run")
    results.add_arguments(parser, repeats=15)


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, writes the JSON.

    Raises:
      UserError: an option names something that does not exist.
    """
    results.check_arguments(args)
    mechanisms = [mechanism(*call) for call in parse_calls(args.mechanisms)]
    loaded = peers.load() if args.peers else None
    if args.peers and not mechanisms:
        raise UserError("--peers belong to mechanisms: name some with --mechanisms, such as --mechanisms=neural")
    names = {option: _names(getattr(args, option), option, known) for option, known in _CHOICES.items()}
    lengths = _numbers(args.lengths)
    rate, rows = matmul_rate(args.dtype), []
    for length in lengths:
        for direction in names["direction"]:
            setting = Setting(args.batch, args.heads, args.head_dim, length, not args.full, args.dtype, direction)
            makers = dict(_scores(setting, args.scores is None and bool(mechanisms), names))
            for chosen in mechanisms:
                makers |= dict(_mechanism(setting, chosen, names, loaded))
            rows += measured_rows(makers, args.repeats, rate)
    console = table.console()
    table.show(console, "attention", rows)
    if args.out:
        results.write(args.out, "attention", rows, matmul_flops_per_second=rate)
        console.print(f"written to {args.out}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "scores": SCORES,
    "parts": PARTS,
    "implementations": (CHOSEN, *IMPLEMENTATIONS),
    "direction": DIRECTIONS,
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes of one comparison."""

    batch: int
    heads: int
    head_dim: int
    length: int
    causal: bool
    dtype: str = "float32"
    direction: str = "train"

    @property
    def width(self) -> int:
        """C of the module, H D."""
        return self.heads * self.head_dim

    def case(self, **own: str) -> Case:
        """What distinguishes a row."""
        pairs = "causal" if self.causal else "all pairs"
        shape = f"B{self.batch} H{self.heads} D{self.head_dim} {pairs}"
        common = {"shape": shape, "dtype": self.dtype, "direction": self.direction, "length": self.length}
        return tuple((common | own).items())

    def compiled(self, forward: Callable[[Any], Array], operands: Any, flops: int) -> Candidate:
        """The candidate of a function of one pytree: itself, or with its derivative by every leaf."""
        figures = {"items": self.batch * self.length}
        if self.direction == "forward":
            return compiled(forward, operands, flops=flops, **figures)

        def train(operands: Any, cotangent: Array) -> tuple:
            out, pull = jax.vjp(forward, operands)
            return out, pull(cotangent)

        out = jax.eval_shape(forward, operands)
        cotangent = jax.random.normal(jax.random.key(5), out.shape, out.dtype)
        return compiled(train, operands, cotangent, flops=TRAIN_FLOPS * flops, **figures)


def measured_rows(
    makers: dict[Case, Callable[[], Candidate]], repeats: int, rate: float | None
) -> list[dict[str, Any]]:
    """Rows of candidates that are measured in turn, each compared with the first of its part, and with its peers."""
    measured = measure(makers, repeats)
    return [_row(case, found, measured, rate) for case, found in measured.items()]


def _row(case: Case, found: Measured, measured: dict[Case, Measured], rate: float | None) -> dict[str, Any]:
    own = dict(case)
    made = row(own, found, rate)
    first = next(other for other in measured if dict(other)["part"] == own["part"])
    references = {"first": measured[first]}
    if own["implementation"] not in peers.PEERS:
        for name in peers.PEERS:
            peer = tuple((own | {"implementation": name}).items())
            if peer in measured:
                references[name] = measured[peer]
    ratios = {name: ratio(reference, found) for name, reference in references.items()}
    made["times_better_than"] = {name: value for name, value in ratios.items() if value is not None}
    return made


def _scores(
    setting: Setting, left_out: bool, names: dict[str, list[str] | None]
) -> Iterable[tuple[Case, Callable[[], Candidate]]]:
    for score in () if left_out else names["scores"] or SCORES:
        for name in names["implementations"] or ("dense", "blockwise"):
            case = setting.case(mechanism=score, part="core", implementation=name)
            yield case, lambda score=score, name=name: score_candidate(setting, score, name)


def score_candidate(setting: Setting, score: str, implementation: str) -> Candidate:
    """The core with a score, on random heads."""
    keys = jax.random.split(jax.random.key(0), 8)
    shape = setting.batch, setting.heads, setting.length
    value = jax.random.normal(keys[2], (*shape, setting.head_dim), setting.dtype)
    if score == "dot":
        inputs = tuple(jax.random.normal(key, (*shape, setting.head_dim), setting.dtype) for key in keys[:2])
        parameters: Any = Dot()
    else:
        inputs = tuple(tuple(jax.random.normal(k, shape) for k in jax.random.split(key)) for key in keys[:2])
        parameters = TwoFeatureNetwork(
            jax.random.normal(keys[3], (setting.heads, 3)), jax.random.normal(keys[4], (setting.heads, 2))
        )
    bias = Causal() if setting.causal else None

    def forward(operands: tuple) -> Array:
        (q, k), v, score = operands
        named = None if implementation == CHOSEN else implementation
        return attend(q, k, v, score=score, bias=bias, implementation=named)[0]

    flops = cost.attention(
        setting.length,
        setting.length,
        batch=setting.batch,
        heads=setting.heads,
        key_heads=setting.heads,
        score=2 * setting.head_dim + 1 if score == "dot" else _NETWORK_FLOPS,
        features=(setting.head_dim, setting.head_dim),
        values=setting.head_dim,
        causal=setting.causal,
        dtype_bytes=4,
    ).flops
    return setting.compiled(forward, (inputs, value, parameters), flops)


def _mechanism(
    setting: Setting, chosen: Mechanism, names: dict[str, list[str] | None], loaded: Any
) -> Iterable[tuple[Case, Callable[[], Candidate]]]:
    for part in names["parts"]:
        for name in names["implementations"] or (CHOSEN,):
            case = setting.case(mechanism=str(chosen), part=part, implementation=name)
            yield case, lambda part=part, name=name: mechanism_candidate(setting, chosen, part, name)
        for name in peers.PEERS if loaded is not None else ():
            if peers.builds(loaded, name, _module(setting, chosen, CHOSEN), setting.width, setting.length):
                case = setting.case(mechanism=str(chosen), part=part, implementation=name)
                yield case, lambda part=part, name=name: apart(peer_candidate, setting, chosen, part, name)


def mechanism_candidate(setting: Setting, chosen: Mechanism, part: str, implementation: str = CHOSEN) -> Candidate:
    """A mechanism's module, or its kernel, on random inputs."""
    module = _module(setting, chosen, implementation)
    key = jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (setting.batch, setting.length, setting.width), setting.dtype)
    if part == "kernel":
        found = kernel(module, x, key)
        return setting.compiled(found.call, found.operands, found.flops)
    flops = module.cost(setting.length, width=setting.width, batch=setting.batch).flops
    variables = {"params": nn.unbox(jax.jit(module.init)(key, x)["params"])}
    return setting.compiled(lambda operands: module.apply(*operands), (variables, x), flops)


def peer_candidate(setting: Setting, chosen: Mechanism, part: str, name: str) -> Candidate:
    """A mechanism's peer, as a whole or its kernel."""
    module = _module(setting, chosen, CHOSEN)
    sizes = peers.Sizes(setting.width, setting.length, module.head_size(setting.width))
    found = torch_calls.candidate(
        peers.PEERS[name](peers.load(), module, sizes),
        sizes,
        setting.batch,
        dtype=setting.dtype,
        train=setting.direction == "train",
        part=part,
    )
    return dataclasses.replace(found, items=setting.batch * setting.length)


def _module(setting: Setting, chosen: Mechanism, implementation: str) -> Any:
    common: dict[str, Any] = {"num_heads": setting.heads, "causal": setting.causal, "dtype": setting.dtype}
    if implementation != CHOSEN:
        common["implementation"] = implementation
    if chosen.has_field("max_length"):
        common["max_length"] = setting.length
    return chosen.module(**common)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--lengths is a list of integers such as 256,1024, got {text!r}") from None
    if min(found) < 1:
        raise UserError(f"--lengths={text}: a sequence has at least 1 token")
    return found


def _names(text: str | None, option: str, known: tuple[str, ...]) -> list[str] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown(f"name in --{option}", name, known)
    return names
