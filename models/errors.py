"""What `models` refuses."""


class ModelError(ValueError):
    """An architecture that names no network, or asks of one what it cannot be. Says what there is."""
