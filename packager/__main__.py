"""`python -m packager` is the command `packager`."""

import sys

from .cli.start import main

if __name__ == "__main__":
    sys.exit(main())
