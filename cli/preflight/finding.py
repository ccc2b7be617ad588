"""What a check looks at, and what it says."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cli.enrolment.files import read_settings
from cli.enrolment.layout import SiteFolder
from cli.enrolment.settings import Membership, SiteSettings
from client.data import SiteData, load_site_data
from client.site import Site
from strategies.settings import Settings, parse_settings


class Problem(Exception):  # noqa: N818 - a verdict, not a failure of ours
    """A check that did not pass: what is wrong, what to do, and whether checks that need it would meet it again."""

    def __init__(self, problem: str, fix: str, stops: bool = True) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.stops = stops


@dataclass(frozen=True)
class Subject:
    """The site that is checked. What is expensive to know is found once."""

    folder: SiteFolder

    @cached_property
    def settings(self) -> SiteSettings:
        """The site's own settings."""
        return read_settings(self.folder.settings, SiteSettings)

    @cached_property
    def membership(self) -> Membership:
        """What the federation says to the site."""
        return read_settings(self.folder.membership, Membership)

    @cached_property
    def run(self) -> Settings:
        """The settings of the runs to come."""
        return parse_settings(self.membership.run)

    @cached_property
    def site(self) -> Site:
        """The site as its ClientApp sees it."""
        settings = self.settings
        return Site(
            self.membership.site,
            self.folder.state,
            settings.data,
            partition=settings.partition or 0,
            n_partitions=settings.partitions or 1,
            threads=settings.threads,
            checkpoint=Path(settings.checkpoint) if settings.checkpoint else None,
        )

    @cached_property
    def data(self) -> SiteData:
        """Its samples."""
        return load_site_data(self.site, self.run)


@dataclass(frozen=True)
class Check:
    """One line: what is looked at, the function that raises `Problem` or returns what it found, and an earlier check.

    Where that one, which it ``needs``, has failed, it is not tried.
    """

    name: str
    look: Callable[[Subject], str]
    fix: str
    needs: str = "configuration"


@dataclass(frozen=True)
class Finding:
    """How one check went; without a problem it passed. ``stops``: those that need it are not tried."""

    check: str
    found: str = ""
    problem: str = ""
    fix: str = ""
    tried: bool = True
    stops: bool = False
