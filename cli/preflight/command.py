"""``fedrebasin site check``: one line for each thing that could keep a site from working."""

import os
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.enrolment.layout import SiteFolder
from cli.environment import environment
from cli.output import Format, Output, people, print_json, print_table
from cli.preflight import enrolled, machine, network, papers, work
from cli.preflight.finding import Check, Finding, Problem, Subject
from strategies.errors import OperatorError

PASSED, FAILED, NO_KIT = 0, 1, 2
KIT = "install the kit again: `fedrebasin site install KIT --fingerprint …`"
CHECKS = (
    Check(
        "configuration", papers.configuration, "put it right in site.toml; membership.toml comes with the kit", needs=""
    ),
    Check("certificate chain", papers.chain, KIT),
    Check("certificate name", papers.name, KIT),
    Check("certificate days left", papers.validity, KIT),
    Check("versions", machine.versions, "install fedrebasin as the server has it"),
    Check("disk", machine.disk, "look at the folder's permissions"),
    Check("ports", machine.ports, "put sidecar-port and runtime-port in site.toml right"),
    Check("proxy reachable", network.reachable, KIT),
    Check("clock", network.clock, "see 'proxy reachable'", needs="proxy reachable"),
    Check("control and runtime API closed", network.closed, "see 'proxy reachable'", needs="proxy reachable"),
    Check("key enrolled", enrolled.enrolled, "see 'proxy reachable'", needs="proxy reachable"),
    Check("architecture", work.architecture, "ask the server's operator what network the runs train"),
    Check("data", work.data, "put data in site.toml right, or the samples"),
    Check("checkpoint", work.checkpoint, "put checkpoint in site.toml right, or the file"),
    Check("training step", work.training, "see 'data'", needs="data"),
    Check("upload", network.upload, "see 'proxy reachable'", needs="proxy reachable"),
)


def check(
    folder: Annotated[Path, typer.Option(help="The site's folder.")] = Path("site"), output: Output = Format.TABLE
) -> None:
    """See whether the site will work. Ends with 0 when all checks passed, 1 when one failed, 2 when there is no kit."""
    site = SiteFolder(folder)
    try:
        site.check()
    except OperatorError as error:
        _answer_no_kit(str(error), output)
    # Where the ClientApp looks for data = "module:function".
    sys.path.append(str(site.code.resolve()))
    with copies_in(site.state):
        findings = inspect(Subject(site))
    failed = [each for each in findings if each.problem]
    if output is Format.JSON:
        print_json({"passed": not failed, "checks": [_told(each) for each in findings]})
    else:
        rows = [(each.check, each.problem or f"none ({each.found})", each.fix) for each in findings]
        print_table(str(folder), ("check", "problem", "how to fix"), rows, texts=("problem", "how to fix"))
        people.print(_counted(findings) if failed else "all checks passed")
    sys.exit(FAILED if failed else PASSED)


@contextmanager
def copies_in(state: Path) -> Generator[None]:
    """Inside, what `datasets` makes of the site's data lies below ``state``, if that can be written, and is gone after.

    It goes by the environment as it is when it is first imported.
    """
    place = state if os.access(state, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix=".check-", dir=place, ignore_cleanup_errors=True) as folder,
        environment({"HF_HOME": folder, "HF_HUB_OFFLINE": "1"}),
    ):
        yield


def inspect(subject: Subject) -> list[Finding]:
    """How each check went."""
    findings: dict[str, Finding] = {}
    for each in CHECKS:
        findings[each.name] = _untried(each, findings) or perform(each, subject)
    return list(findings.values())


def _untried(one: Check, findings: Mapping[str, Finding]) -> Finding | None:
    """What is told in place of ``one`` where the check that it needs has failed: that one's words stand there."""
    needed = findings.get(one.needs)
    if needed is None or not needed.stops:
        return None
    fix = f"see '{needed.check}'" if needed.tried else needed.fix
    return Finding(one.name, problem="not tried", fix=fix, tried=False, stops=True)


def _counted(findings: Sequence[Finding]) -> str:
    n_failed = sum(bool(each.problem) and each.tried for each in findings)
    n_untried = sum(not each.tried for each in findings)
    untried = f", {n_untried} {'was' if n_untried == 1 else 'were'} not tried" if n_untried else ""
    return f"{n_failed} of {len(findings)} checks failed{untried}"


def _told(finding: Finding) -> dict[str, object]:
    told = asdict(finding)
    del told["stops"]
    return told


def perform(one: Check, subject: Subject) -> Finding:
    """How ``one`` went; an error of any kind is a problem, so that the other checks are still made."""
    try:
        return Finding(one.name, found=one.look(subject))
    except Problem as problem:
        return Finding(one.name, problem=problem.problem, fix=problem.fix, stops=problem.stops)
    except Exception as error:
        told = str(error) if isinstance(error, OperatorError) else f"{type(error).__name__}: {error}"
        return Finding(one.name, problem=told, fix=one.fix, stops=True)


def _answer_no_kit(problem: str, output: Format) -> None:
    if output is Format.JSON:
        print_json({"passed": False, "checks": [], "problem": problem})
    else:
        people.print(problem, soft_wrap=True, markup=False)
    sys.exit(NO_KIT)
