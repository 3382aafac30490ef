"""`python -m packager` is the command `packager`."""

import sys

from .cli.app import main

if __name__ == "__main__":
    sys.exit(main())
