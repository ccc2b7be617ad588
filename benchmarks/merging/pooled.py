"""Training on all sites' data together, kept on disk: the bound that no merge can pass."""

import time
from pathlib import Path

from benchmarks.merging.images import cache_folder
from benchmarks.merging.tasks import Task
from cli.pooled import train_pooled
from server.records import Score
from strategies.files import write_text


def pooled_path(task: Task) -> Path:
    """Where what `pooled` found is kept."""
    return cache_folder() / f"{task.name}-pooled.json"


def kept_pooled(task: Task) -> Score | None:
    """What `pooled` found before; None where it did not."""
    path = pooled_path(task)
    return Score.model_validate_json(path.read_text()) if path.exists() else None


def pooled(task: Task) -> Score:
    """The score, on the union of held-out samples, of a network trained on the union of training samples."""
    found = kept_pooled(task)
    if found is None:
        start = time.monotonic()
        found = train_pooled(task.settings, task.n_sites)
        write_text(pooled_path(task), found.model_dump_json())
        write_text(pooled_path(task).with_suffix(".seconds"), f"{time.monotonic() - start:.1f}")
    return found
