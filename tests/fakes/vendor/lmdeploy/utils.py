import logging
import sys

_FORMAT = "%(message)s"


def get_logger(name=None, log_file=None, log_level=logging.INFO, file_mode="a", log_formatter=_FORMAT):
    """As lmdeploy's: the first call gives it a handler for standard output, and keeps it from everybody else's."""
    logger = logging.getLogger(name)
    if not hasattr(logger, "was_asked_for"):
        logger.was_asked_for = True
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.propagate = False
        logger.setLevel(log_level)
    return logger
