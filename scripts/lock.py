"""Writes requirements.lock: one pinned version for every package that the project and its development need.

pip's own resolver decides, in an environment of its own, for this interpreter and platform. Versions carry no local
part (``+cpu``) and no address, so that any index serves them. torch's CUDA packages, which torch itself pins and which
only some builds of it need, are left to torch. Arguments are handed to pip: ``scripts/lock.py torch==2.13.0``.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")
HEADER = (
    "# Every package that the project, its tests and its checks need. `make lock` renews it; `make install` reads it.\n"
)


def main() -> None:
    """Resolves, and writes the file."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        report = Path(folder) / "report.json"
        command = [str(Path(folder) / "bin" / "python"), "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), f"{ROOT}[dev]", *sys.argv[1:]]
        subprocess.run(command, check=True)
        lines = pins(json.loads(report.read_text(encoding="utf-8")))
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


def pins(report: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """``name==version`` for each package in pip's report but the project itself, by name."""
    packages = {each["metadata"]["name"].lower(): each["metadata"]["version"] for each in report["install"]}
    packages.pop("fedrebasin")
    return [
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(packages.items())
        if not name.startswith(LEFT_TO_TORCH)
    ]


if __name__ == "__main__":
    main()
