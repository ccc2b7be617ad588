"""Every exit code of ours, gathered from the classes that carry them."""

import importlib
import pkgutil

from strategies.errors import OperatorError

PACKAGES = ("alignment", "models", "strategies", "client", "server", "cli")
# Those that no error of ours carries.
OTHERS = {
    0: "done",
    1: "`site check`: a check failed; elsewhere an error that nobody foresaw: please report it",
    2: "the command line cannot be read; `site check`: the folder is no kit",
}


def exit_codes() -> dict[int, list[type[OperatorError]]]:
    """The classes of each code; a class that says no code of its own has its parent's."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(module.name)
    codes: dict[int, list[type[OperatorError]]] = {}
    for each in [OperatorError, *_below(OperatorError)]:
        if "exit_code" in vars(each):
            codes.setdefault(each.exit_code, []).append(each)
    return dict(sorted(codes.items()))


def exit_code_table() -> str:
    """The table in Markdown: code, what happened."""
    rows = [f"| {code} | {words} |" for code, words in OTHERS.items()]
    for code, (each, *_) in exit_codes().items():
        said = (each.__doc__ or "").splitlines()[0].rstrip(".")
        rows.append(f"| [{code}]({code}.md) | {said} |")
    return "\n".join(["| code | what happened |", "| --- | --- |", *rows])


def _below(parent: type[OperatorError]) -> list[type[OperatorError]]:
    return [each for child in parent.__subclasses__() for each in (child, *_below(child))]
