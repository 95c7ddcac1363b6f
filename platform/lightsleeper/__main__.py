"""`python -m lightsleeper` is the `lightning` command."""

import sys

from lightsleeper.cli import main

if __name__ == "__main__":
    sys.exit(main())
