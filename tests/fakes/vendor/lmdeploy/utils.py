import logging
import sys

_FORMAT = "%(message)s"


def get_logger(name=None, log_file=None, log_level=logging.INFO, file_mode="a", log_formatter=_FORMAT):
    """As lmdeploy's: the first call gives it a handler for standard output, and takes all but errors from others' plain ones."""
    logger = logging.getLogger(name)
    if not hasattr(logger, "was_asked_for"):
        logger.was_asked_for = True
        for handler in logger.root.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.ERROR)
        logger.addHandler(logging.StreamHandler(sys.stdout))
        logger.propagate = False
        logger.setLevel(log_level)
    return logger
