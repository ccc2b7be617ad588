"""Checks of the machine and of what is installed on it."""

import shutil
from importlib.metadata import version

from cli.enrolment.parts import read_parts
from cli.preflight.finding import Problem, Subject
from cli.site_ports import HOW_TO_FREE, taken_ports
from cli.supervise import runs


def versions(subject: Subject) -> str:
    """Whether site and server run the same program."""
    told = {"fedrebasin": subject.membership.version, "flwr": subject.membership.flower}
    for package, wanted in told.items():
        if version(package) != wanted:
            raise Problem(
                f"{package} is {version(package)} here and {wanted} at the server",
                f"use the image {subject.membership.image}, or install {package} {wanted}",
            )
    return ", ".join(f"{package} {wanted}" for package, wanted in told.items())


def disk(subject: Subject) -> str:
    """Whether there is room for the site's networks."""
    free = shutil.disk_usage(subject.folder.path).free / 1e9
    if free < subject.settings.least_free_gigabytes:
        raise Problem(
            f"{free:.1f} GB free below {subject.folder.path}, least-free-gigabytes is "
            f"{subject.settings.least_free_gigabytes:g}",
            "make room, move the folder, or lower least-free-gigabytes in site.toml",
        )
    return f"{free:.0f} GB free"


def ports(subject: Subject) -> str:
    """Whether the site's processes can listen where they are to, as far as they do not already."""
    parts = read_parts(subject.folder)
    if runs(parts.folder):
        return "not looked at: the site runs"
    if taken := taken_ports(parts):
        raise Problem("; ".join(taken), HOW_TO_FREE)
    return ", ".join(f"{key} {port}" for key, port in parts.ports().values())
