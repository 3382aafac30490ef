"""Where the process of `packager` begins: Ctrl-C ends it in one line while the rest is imported, too."""

import sys


def main() -> int:
    """Run the command line that this process was given, and return its exit code."""
    try:
        from .app import main as run

        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
