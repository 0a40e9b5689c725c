"""ConvNN attention: a convolution over a token's nearest neighbours in feature space.

Kang et al. 2025, "Attention Via Convolutional Nearest Neighbors", arXiv:2511.14137; released code:
github.com/mingikang31/Convolutional-Nearest-Neighbor-Attention.

    n_1 ... n_K = the K tokens s of largest similarity(k_t, q_s), best first
    head_t = sum over rank r of C_r (w_r v_{n_r})      w = softmax over r of the K similarities, or these themselves
    Y = [head_1 ... head_H] W^O                        similarity: k.q / sqrt(D), cosine, or minus the distance

The roles of queries and keys are the source's, swapped against other attention: token t looks for neighbours with its
key, and is found by its query. C_r are the slices of a convolution kernel of length K over ranks, shared by all tokens
and heads. Where candidates are sampled, token t itself is neighbour 1 with similarity 1 (distance 1), and the others
are the K - 1 nearest candidates besides it. The source's d_k is our D. What is not in its paper is fixed here as
follows: where a token has fewer than K neighbours (a causal token's past, padding), the missing ranks weigh nothing.

`as_published=True` computes what the released code does, which differs in that
  - several heads are merged by reading each (T, D) matrix as (D, T), which mixes tokens;
  - among sampled candidates token t is given similarity -0.1 (distance 1.1) and often chosen a second time;
  - a distance of 0 has the gradient NaN;
  - the coordinate of a sampled candidate is its rank among the candidates, and depthwise convolutions take none;
  - random candidates are drawn anew in evaluation too, where an rng "sampling" is given;
  - spatial candidates repeat where more are asked for than there are tokens.
It builds the (T, S) matrix, as the released code does.
"""

import zlib
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from jattn.attention import convnn_candidates as sampling
from jattn.attention import convnn_neighbours as neighbours
from jattn.attention import cost
from jattn.attention.base import Attention, Inputs, mean_over_pairs, real_pairs, visible_keys
from jattn.attention.convnn_candidates import Candidates, Places
from jattn.attention.convnn_convolution import Kind, RankConvolution
from jattn.attention.convnn_cost import convnn_cost
from jattn.attention.convnn_neighbours import Magnitude, Ranks
from jattn.errors import UserError, unknown
from jattn.types import Array, AttentionMask, Float

Sampling = Literal["all", "random", "spatial"]


class ConvNNAttention(Attention):
    """Convolution over the K nearest neighbours of every token.

    num_heads: heads split the channels; 1 as the source ran it, also where the model's other mechanisms have more.
    K: neighbours, and ranks of the convolution; all tokens there are, where these are fewer.
    sampling_type: candidates: "all" tokens, or a sample that is "random" or "spatial" (at equal distances).
    num_samples: size of the sample, at most the sequence's length.
    sample_padding: positions that spatial candidates leave out at both ends.
    magnitude_type: the similarity: "matmul" (scaled dot product), "cosine", or "euclidean" (distance).
    convolution_type: "depthwise" (begins as a sum over ranks), "standard", or "depthwise-separable".
    softmax_topk_val: weights are a softmax over the K similarities; otherwise the similarities themselves (signed), or
      the inverse of the distances.
    coordinate_encoding: tokens carry their position, from -1 to 1, as one more feature of query, key and value; with a
      depthwise convolution, which has no output for it, of query and key.
    candidates: the sampled positions themselves, instead of drawn ones.
    sampling_seed: of the random candidates in evaluation; None = another for each layer, by its name. Training draws
      from rng "sampling".
    max_length: the length to which samples and coordinates refer when causal, so that they do not depend on later
      tokens and decoding equals the full pass; None = the length of the call, or of the decode cache.

    Not causal, they refer to the sequence up to its last real token, or to a segment of a packed row: neither padding
    after a sequence nor what it is packed with changes its outputs. Padding before it moves positions, and with them
    spatial candidates and coordinates.
    """

    lacks: ClassVar[Mapping[str, str]] = {
        "probabilities": "weights of ranks are scaled by a convolution and may be negative",
        "implementations": "it selects and gathers neighbours instead of weighting all keys",
    }
    keeps: ClassVar[frozenset[str]] = frozenset({"num_heads"})

    num_heads: int = 1
    K: int = 9
    sampling_type: Sampling = "all"
    num_samples: int = 32
    sample_padding: int = 0
    magnitude_type: Magnitude = "matmul"
    convolution_type: Kind = "depthwise"
    softmax_topk_val: bool = True
    coordinate_encoding: bool = False
    candidates: tuple[int, ...] | None = None
    sampling_seed: int | None = None
    max_length: int | None = None

    def __post_init__(self):
        for field, kinds in (("sampling_type", Sampling), ("magnitude_type", Magnitude), ("convolution_type", Kind)):
            if getattr(self, field) not in get_args(kinds):
                raise unknown(field, getattr(self, field), get_args(kinds))
        if self.K < 1:
            raise UserError(f"K is {self.K}: a token needs at least 1 neighbour")
        if self.sampling_type == "all" and self.candidates is not None:
            raise UserError("candidates are those of a sample: set sampling_type to 'random' or 'spatial'")
        if self.candidates is not None and (not self.candidates or min(self.candidates) < 0):
            raise UserError(f"candidates are {self.candidates}: give at least one position, counted from 0")
        drawn = self.sampling_type != "all" and self.candidates is None
        if drawn and self.num_samples < 1 and not (self.as_published and self.sampling_type == "random"):
            raise UserError(
                f"num_samples is {self.num_samples}: sampling_type={self.sampling_type!r} needs at least 1; "
                "sampling_type='all' takes all tokens"
            )
        if self.sample_padding < 0:
            raise UserError(f"sample_padding is {self.sample_padding}: it must be at least 0")
        if self.as_published and self.causal:
            raise UserError("the released ConvNN has no causal form: set causal=False or as_published=False")
        if self.as_published and self.coordinate_encoding and self.convolution_type == "depthwise":
            raise UserError(
                "the released ConvNN cannot give a depthwise convolution coordinates: "
                "set as_published=False or another convolution_type"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        mask: AttentionMask | None = None,
        *,
        context: Float[Array, "*B S X"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*B T C"]:
        """Neighbours of each token of x among its own or the context's; see `jattn.attention.base` for the mask.

        A token of x is none of its context's: with a context all K neighbours are candidates.
        """
        inputs = self.begin(x, mask, context)
        head_dim = self.head_size(x.shape[-1])
        k = self.project("key", inputs.x, self.num_heads, head_dim)
        q = self.project("query", inputs.context, self.num_heads, head_dim)
        v = self.project("value", inputs.context, self.num_heads, head_dim)
        k, q = self.turned(inputs, k, q)
        inputs, (q, v) = self.remember(inputs, query=q, value=v)

        at = self._places(inputs, q.shape[2], crossed=context is not None)
        chosen = self._candidates(at, deterministic)
        own = chosen is not None and context is None
        q = q if chosen is None else neighbours.at_slots(q, chosen.slot)
        if self.coordinate_encoding:
            of_tokens, of_candidates, of_slots = neighbours.coordinates(
                at, chosen, k.shape[2], None if context is not None else inputs.offset, by_rank=self.as_published
            )
            k, q = neighbours.extended(k, of_tokens), neighbours.extended(q, of_candidates)
            if self.convolution_type != "depthwise":
                v = neighbours.extended(v, of_slots)
        k, q, score = neighbours.scored(self.magnitude_type, k, q, head_dim**-0.5)
        hides_own = own and not self.as_published
        pairs = neighbours.pairs(inputs, at, chosen, k, q, score, causal=self.causal, hides_own=hides_own)
        if self.as_published:
            best = neighbours.released(pairs, self.K - own, self.magnitude_type, sampled=own)
        else:
            best = neighbours.nearest(pairs, self.K - own)
        normalise = self.softmax_topk_val
        ranks = neighbours.Ranks.of(inputs, pairs, best, chosen, self.magnitude_type, own=own, normalise=normalise)

        convolution = RankConvolution(self.convolution_type, head_dim, self.dtype, name="conv")
        v, convolution, norms = convolution(v, ranks.slot.shape[-1])
        out = ranks.convolved(v, convolution)
        if self.is_asked_to_report():
            self._report(inputs, ranks, norms, v.shape[2])
        out = nn.Dropout(self.dropout_rate)(out, deterministic=deterministic)
        if self.as_published and self.num_heads > 1:
            out = out.reshape(*out.shape[:2], head_dim, -1).swapaxes(2, 3)
        return self.finish(inputs, out)

    def _places(self, inputs: Inputs, slots: int, *, crossed: bool) -> Places:
        if self.as_published:
            return sampling.released_places(slots, inputs.key_mask)
        uses_length = self.coordinate_encoding or self.sampling_type != "all"
        length = None
        if self.causal and not crossed:
            length = slots if self.max_length is None else self.max_length
            if uses_length and slots > length:
                raise UserError(
                    f"{slots} tokens are more than max_length {length}: shorten the sequence or raise max_length"
                )
        return sampling.places(slots, inputs.key_mask, inputs.pair_mask, length)

    def _candidates(self, at: Places, deterministic: bool) -> Candidates | None:
        """The sampled candidates; None = all tokens are."""
        if self.sampling_type == "all":
            return None
        if self.candidates is not None:
            return sampling.given(at, self.candidates, distinct=not self.as_published)
        if self.sampling_type == "spatial":
            spatial = sampling.released_spatial if self.as_published else sampling.spatial
            return spatial(at, self.num_samples, self.sample_padding)
        random = sampling.released_random if self.as_published else sampling.random
        return random(at, self.num_samples, self._seed(deterministic))

    def _seed(self, deterministic: bool) -> Array | int:
        if not deterministic or (self.as_published and self.has_rng("sampling")):
            return jax.random.bits(self.make_rng("sampling"), dtype=jnp.uint32)
        return self._evaluation_seed

    @property
    def _evaluation_seed(self) -> int:
        return zlib.crc32("/".join(self.path).encode()) if self.sampling_seed is None else self.sampling_seed

    def _report(self, inputs: Inputs, ranks: Ranks, norms: Float[Array, " K"], slots: int) -> None:
        """Sows the mean |similarity| over candidate pairs, and each rank's weight times the norm of its C_r."""
        slot, weights = ranks.slot, ranks.weights() * norms[None, None, None]
        keys = visible_keys(inputs, slots, causal=self.causal)
        rows = neighbours.statistics(ranks.pairs, slot, weights, keys)
        energy = mean_over_pairs(rows.energy, real_pairs(inputs, rows))
        self.sow_report(inputs, energy, rows, lambda: neighbours.matrix(slot, weights, slots))

    def weights(
        self, x: Float[Array, "*B T C"], mask: AttentionMask | None = None, *, context: Array | None = None
    ) -> Float[Array, "*B H T S"]:
        """Each neighbour's weight times the Frobenius norm of the convolution at its rank, of an evaluation's call."""
        if self.sampling_seed is None and self.path:  # read by a copy that has no path of its own
            reader = self.clone(parent=None, sampling_seed=self._evaluation_seed)
            return reader.apply(self.variables, x, mask, context=context, method="weights")
        return super().weights(x, mask, context=context)

    def cost(self, T: int, S: int | None = None, *, width: int, batch: int = 1, dtype_bytes: int = 4) -> cost.Cost:
        """The cost of one forward pass of `batch` examples of T tokens with neighbours among S (None = their own T).

        The comparisons of the selection itself (`top_k`) are not counted, as XLA does not.
        """
        S = T if S is None else S
        H, D = self.num_heads, self.head_size(width)
        total = convnn_cost(self, T, S, D, batch, dtype_bytes)
        for tokens, inputs, outputs in ((T, width, H * D), (S, width, H * D), (S, width, H * D), (T, H * D, width)):
            total += cost.projection(batch * tokens, inputs, outputs, use_bias=self.use_bias, dtype_bytes=dtype_bytes)
        return total + cost.Cost(0, batch * H * (T + S) * D * cost.ROTARY * self.rotary, 0)
