"""Text from a trained language model.

  python -m jattn generate --workdir=runs/python_docs_lm --prompt='The import statement'
  python -m jattn generate --workdir=runs/python_docs_lm --prompt='The' --temperature=0.8 --top_p=0.9 --num_samples=3
  python -m jattn generate --workdir=runs/python_docs_lm --prompt_file=prompts.txt --max_tokens=100 > texts.txt

Standard output is the texts and nothing else but a line between them; what is said about them goes to standard error.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jattn.data.text.tokenizers import Tokenizer
from jattn.errors import UserError
from jattn.generation import Generation, Sampling, TextStream, check_prompts
from jattn.literals import parse_checkpoint
from jattn.models import LanguageModel
from jattn.training.step import root_key
from jattn.training.trained import Trained, open_trained

# What a byte-level model may say and a terminal would obey: control characters but for tabs and new lines.
_OBEYED = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class _Text(NamedTuple):
    """What is to be generated: the prompt, its tokens, and the numbers of prompt and sample, which seed it."""

    prompt: str
    tokens: list[int]
    numbers: tuple[int, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m jattn generate`."""
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--checkpoint", default="best", help="best, newest, or a step (default best)")
    parser.add_argument("--prompt", help="text to continue")
    parser.add_argument("--prompt_file", help="file of texts to continue, one a line")
    parser.add_argument("--max_tokens", type=int, default=200, help="tokens to generate for each text (default 200)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divides the logits; 0 = always the likeliest token (default 1)"
    )
    parser.add_argument(
        "--top_k", type=_number, help="choose among so many of the likeliest tokens; 0.1 = a tenth of the vocabulary"
    )
    parser.add_argument(
        "--top_p", type=float, help="choose among the fewest of the likeliest tokens with this probability in sum"
    )
    parser.add_argument("--num_samples", type=int, default=1, help="texts for each prompt (default 1)")
    parser.add_argument("--batch_size", type=int, default=16, help="texts generated at the same time (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same texts (default 0)")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="show the first text of a batch while it is generated (default: on a terminal)",
    )


def run(args: argparse.Namespace) -> None:
    """Generates and prints the texts.

    Raises:
      UserError: there is no such run or checkpoint, it is no language model of a text, or a prompt cannot be continued.
    """
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    for name in ("max_tokens", "num_samples", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
    if args.seed < 0:
        raise UserError(f"--seed={args.seed} must be at least 0")
    prompts = _prompts(args)
    trained = open_trained(args.workdir, parse_checkpoint(args.checkpoint), reads_data=False)
    config, tokenizer = trained.experiment.config, trained.experiment.dataset.fitted
    if not isinstance(trained.experiment.model, LanguageModel):
        raise UserError(
            f"{args.workdir} is the run of a {config.model.name}, which writes no text: give that of a language_model"
        )
    if tokenizer is None:
        raise UserError(
            f"{args.workdir} was trained on data set {config.data.name}, whose tokens are no text: give the run of a "
            "model of text"
        )
    texts = [
        _Text(prompt, tokenizer.encode(prompt).tolist(), (i, sample))
        for i, prompt in enumerate(prompts)
        for sample in range(args.num_samples)
    ]
    check_prompts(trained.experiment.model, trained.params, [text.tokens for text in texts])
    stream = sys.stdout.isatty() if args.stream is None else args.stream
    start, count = time.perf_counter(), 0
    for first in range(0, len(texts), args.batch_size):
        batch = texts[first : first + args.batch_size]
        count += _batch(trained, tokenizer, batch, first, len(texts), sampling, args, stream)
    seconds = time.perf_counter() - start
    print(f"{count:,} tokens in {seconds:.3g} s, compilation included", file=sys.stderr)


def _batch(
    trained: Trained,
    tokenizer: Tokenizer,
    batch: list[_Text],
    first: int,
    total: int,
    sampling: Sampling,
    args: argparse.Namespace,
    stream: bool,
) -> int:
    """Generates and prints the texts of a batch, of which the first has this number; returns how many tokens."""
    key = root_key(args.seed)
    keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(key, i), sample) for _, _, (i, sample) in batch])
    texts = Generation(
        trained.experiment.model,
        trained.params,
        [text.tokens for text in batch],
        keys,
        max_tokens=args.max_tokens,
        sampling=sampling,
    )
    for i, text in enumerate(batch):
        if total > 1:
            print(f"{'' if first + i == 0 else chr(10)}=== text {first + i + 1} of {total} ===", flush=True)
        _show(text.prompt)
        for piece in _pieces(texts, i, TextStream(tokenizer, text.tokens), 1 if stream else None):
            _show(piece)
        print(flush=True)
    generated = [len(tokens) for tokens in texts.tokens()]
    cut = sum(length < args.max_tokens for length in generated)
    if cut:
        which = "the text" if total == 1 else f"{cut} of the texts"
        print(
            f"{which} ended where the model's context of {texts.context} tokens does (model.max_length), before the "
            f"{args.max_tokens} tokens asked for",
            file=sys.stderr,
        )
    return sum(generated)


def _pieces(texts: Generation, index: int, shown: TextStream, count: int | None) -> Iterator[str]:
    """The continuation of one text, as it grows by `count` tokens at a time."""
    while not texts.done:
        yield shown.feed(texts.tokens()[index])
        texts.advance(count)
    yield shown.end(texts.tokens()[index])


def _show(text: str) -> None:
    """Writes a piece of a text; what the terminal cannot show or would obey is replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    if sys.stdout.isatty():
        text = text.translate(_OBEYED)
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _prompts(args: argparse.Namespace) -> list[str]:
    """The texts to continue."""
    if (args.prompt is None) == (args.prompt_file is None):
        raise UserError("give either --prompt or --prompt_file: a text is continued from at least one token")
    if args.prompt is not None:
        if any("\ud800" <= c <= "\udfff" for c in args.prompt):  # how Python marks what it cannot decode
            raise UserError("--prompt is no UTF-8: give it in a file, or set the terminal's encoding to UTF-8")
        return [args.prompt]
    try:
        lines = Path(args.prompt_file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--prompt_file={args.prompt_file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--prompt_file={args.prompt_file} is no UTF-8: save it as such") from None
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"--prompt_file={args.prompt_file} has no prompt: write one a line")
    return prompts


def _number(text: str) -> float | int:
    """A whole number of tokens, or a share."""
    return int(text) if text.isdecimal() else float(text)
