"""Arguments of config files: `configs/x.py:kvt,cifar100,smoke` chooses one word of each of several groups."""

from collections.abc import Mapping, Sequence

from jattn.errors import UserError, unknown


def choose(arg: str, file: str, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The word that an argument chooses of each group; the first of a group where it names none.

    A word that may be left out without a replacement is a group `("", word)`. No word is in two groups.

    >>> choose("cifar100,smoke", "configs/x.py", {"data": ("cifar10", "cifar100"), "size": ("", "smoke")})
    {'data': 'cifar100', 'size': 'smoke'}

    Raises:
      UserError: a word is in no group, or two are of one group.
    """
    chosen: dict[str, str] = {}
    for word in filter(None, (part.strip() for part in arg.split(","))):
        group = next((name for name, words in groups.items() if word in words), None)
        if group is None:
            raise unknown(f"argument of {file}", word, [known for words in groups.values() for known in words if known])
        if group in chosen:
            raise UserError(f"{file} takes one {group}, not both {chosen[group]} and {word}")
        chosen[group] = word
    return {name: chosen.get(name, words[0]) for name, words in groups.items()}
