"""Nothing of ours can run what came from elsewhere: no pickle, no eval, no shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("alignment", "models", "strategies", "client", "server", "cli", "scripts", "benchmarks", "deploy")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "np.load", "numpy.load"}


def test_all_packages_are_looked_at() -> None:
    assert len(SOURCES) > 100


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_can_run_what_it_reads(path: Path) -> None:
    assert list(findings(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "from torch import load"),
        *("eval('1')", "exec('1')", "import subprocess\nsubprocess.run('ls', shell=True)", "np.load('x')"),
    ],
)
def test_what_it_looks_for_is_found(source: str) -> None:
    assert list(findings(ast.parse(source)))


def findings(tree: ast.AST):
    """Line and name of what could run code."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module] if module.split(".")[0] in MODULES else []
            names += [f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS]
        elif isinstance(node, ast.Call):
            said = ast.unparse(node.func)
            names = [said] if said in CALLS else []
            names += [
                "shell=True" for word in node.keywords if word.arg == "shell" and ast.unparse(word.value) != "False"
            ]
        for name in names:
            yield getattr(node, "lineno", 0), name
