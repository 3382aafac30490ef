LIBRARY = True
"""Whether TurboMind's library is there."""


def is_available():
    return LIBRARY
