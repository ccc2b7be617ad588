"""Where what our code says goes: by itself Python shows warnings, and hides the rest."""

import logging


def show_log() -> None:
    """From now on what our code says, from INFO on, is on this process's standard error, or where its log goes."""
    logging.getLogger("fedrebasin").setLevel(logging.INFO)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.INFO)
