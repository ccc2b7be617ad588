"""placeholder"""


def rehearse() -> None:
    """placeholder"""
