"""PyTorch modules as candidates beside jattn's: their calls, and the scratch memory of these."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from jattn.bench import memory
from jattn.bench.candidate import Candidate
from jattn.bench.peers import Peer, Sizes


def candidate(peer: Peer, sizes: Sizes, batch: int, *, dtype: str, train: bool, part: str) -> Candidate:
    """A peer's kernel or whole module on random inputs, forward or forward and backward."""
    torch = importlib.import_module("torch")
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    place = {"device": device, "dtype": getattr(torch, dtype)}
    with memory.limited():
        module = peer.module.to(**place).train()
        further = {name: _placed(value, place) for name, value in peer.arguments.items()}
        x = torch.randn(batch, sizes.length, sizes.width, **place)
        parameters = list(module.parameters())
        if part == "kernel":
            with torch.no_grad():
                heads = module.heads(x)
            # Lists of tensors, one a head, stay lists.
            inputs = torch.utils._pytree.tree_map(lambda head: head.clone(memory_format=torch.contiguous_format), heads)
            call = lambda: module.kernel(*inputs, **further)  # noqa: E731
        else:
            inputs = (x,)
            call = lambda: module(x, **further)  # noqa: E731
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(inputs) if leaf.is_floating_point()]
        for leaf in leaves if train else ():
            leaf.requires_grad_()
        with torch.no_grad():
            out = call()
        cotangent = torch.utils._pytree.tree_map(torch.randn_like, out)
        del out

    def run() -> list:
        if train:
            out = call()
            gradients = torch.autograd.grad(out, [*leaves, *parameters], cotangent, allow_unused=True)
            outputs = [out, *gradients]
        else:
            with torch.no_grad():
                outputs = [call()]
        if device == "cuda":
            torch.cuda.synchronize()
        return outputs

    return timed(torch, run)


def timed(torch: Any, run: Callable[[], object], **figures: int | None) -> Candidate:
    """The candidate of a PyTorch call that returns all it leaves behind, which is no scratch."""
    with memory.limited():
        run()
        scratch = scratch_bytes(torch, run)
    return Candidate(run, scratch, **figures)


def scratch_bytes(torch: Any, run: Callable[[], object]) -> int:
    """Most memory that a call holds at a time besides what it finds and what it returns.

    On a CPU every allocation is followed by PyTorch's profiler, and what is freed by the end of the call is scratch; on
    a GPU the allocator's peak counts, less what the call found and returned.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        returned = run()
        kept = torch.cuda.memory_allocated() - before
        del returned
        return max(torch.cuda.max_memory_allocated() - before - kept, 0)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        returned = run()
    roots = profile.profiler.kineto_results.experimental_event_tree()
    events = [event for root in roots for event in _tree(root) if event.tag.name == "Allocation"]
    del returned
    return peak_of_freed((e.extra_fields.ptr, e.extra_fields.alloc_size) for e in sorted(events, key=_start))


def peak_of_freed(events: Iterable[tuple[int, int]]) -> int:
    """The peak of all that is allocated and freed again, of events (address, bytes), freed ones being negative."""
    events = list(events)
    begun: dict[int, int] = {}
    freed = [False] * len(events)
    for place, (address, size) in enumerate(events):
        if size > 0:
            begun[address] = place
        elif address in begun:  # what was there before the call is none of its scratch
            freed[place] = freed[begun.pop(address)] = True
    live = peak = 0
    for counts, (_, size) in zip(freed, events, strict=True):
        live += size * counts
        peak = max(peak, live)
    return peak


def _tree(event: Any) -> Iterator[Any]:
    yield event
    for child in event.children:
        yield from _tree(child)


def _start(event: Any) -> int:
    return event.start_time_ns


def _placed(value: Any, place: Mapping[str, Any]) -> Any:
    return value.to(**place) if hasattr(value, "to") else value
