"""`python -m sottovoce.runtime BUNDLE "text" -o out.wav`: `sottovoce say` where there is no console script."""

import argparse
import sys
from collections.abc import Sequence

from sottovoce.runtime import say
from sottovoce.runtime.console import add_debug, guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (None: the process's own) and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m sottovoce.runtime", description="Speak text with a bundle.")
    add_debug(parser)
    say.add_arguments(parser)
    args = parser.parse_args(argv)
    return guarded(lambda: say.run(args), args.debug)


if __name__ == "__main__":
    sys.exit(main())
