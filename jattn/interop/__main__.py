"""`python -m jattn.interop import gpt2|vit PATH`: the same as `python -m jattn import gpt2|vit PATH`."""

import sys

from jattn.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
