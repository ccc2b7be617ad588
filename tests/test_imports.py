"""A package imports only what the table in CONTRIBUTING.md allows; nothing can unpickle or evaluate."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "server", "client", "strategies", "models", "alignment")
ALLOWED = {
    "alignment": {"alignment"},
    "models": {"models"},
    "strategies": {"strategies", "alignment"},
    "client": {"client", "strategies", "models", "alignment"},
    "server": {"server", "strategies", "models", "alignment"},
    "cli": set(PACKAGES),
}
STRATEGY_MODULES_FOR_CLIENTS = {
    *(
        "protocol",
        "alignments",
        "settings",
        "errors",
        "files",
        "tensor_files",
        "names",
        "checkpoints",
        "privacy",
        "masked",
        "layer_sums",
        "called_for",
    ),
    "logs",
}
FOREIGN_TO_ALIGNMENT = {"flwr", "prometheus_client", "pathlib", "time", "datetime", "safetensors", "random", "os"}


def sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_below(package: str) -> None:
    for path, tree in sources(package):
        used = {name.partition(".")[0] for name in imported(tree)} & set(PACKAGES)
        assert used <= ALLOWED[package], path


def test_a_client_knows_of_strategies_only_what_both_sides_share() -> None:
    for path, tree in sources("client"):
        used = {name.split(".")[1] for name in imported(tree) if name.startswith("strategies.")}
        assert used <= STRATEGY_MODULES_FOR_CLIENTS, path


def test_alignment_knows_no_flower_no_files_and_no_clock() -> None:
    for path, tree in sources("alignment"):
        assert not {name.partition(".")[0] for name in imported(tree)} & FOREIGN_TO_ALIGNMENT, path


def test_a_site_that_is_sent_a_message_loads_no_library_that_it_does_without() -> None:
    """Each message starts a process at the site."""
    program = "import sys, client.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    needless = {"datasets", "flwr_datasets", "pandas", "sklearn", "matplotlib", "scipy.optimize"}
    assert not needless & set(loaded.stdout.split())


@pytest.mark.parametrize("module", ["cli.main", "cli.exporter", "cli.watch"])
def test_what_trains_and_merges_nothing_is_there_at_once_and_small(module: str) -> None:
    """Help, enrolment, and what runs for months beside a run or a site: exporter, watch, the site's supervisor."""
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"torch", "numpy", "flwr", "ray", "matplotlib"} & set(loaded.stdout.split())


@pytest.mark.parametrize("package", [*PACKAGES, "scripts", "benchmarks"])
def test_nothing_unpickles_or_evaluates(package: str) -> None:
    for path, tree in sources(package):
        assert not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & set(imported(tree)), path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "np.load", "numpy.load"), path
                assert not any(keyword.arg == "shell" for keyword in node.keywords), path
