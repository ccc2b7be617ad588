"""Which part of a folder is to be read, and how `datasets` is told so: by itself it guesses from the names of files."""

import re
from os import walk
from pathlib import Path

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from client.sources import DataError

IMAGES = frozenset(ImageFolder.EXTENSIONS)
TABLES = frozenset({".parquet"})
METADATA = frozenset(ImageFolder.METADATA_FILENAMES)
# What `datasets` takes for splits; the first that is there is read.
SPLITS = ("train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation")
# It also takes a part of a name for one, as in "test_07" and "positive test".
SPLIT_IN_NAME = re.compile(rf"(.*[-._ 0-9])?({'|'.join(SPLITS)})([-._ 0-9].*)?", re.IGNORECASE)


def how_to_read(path: Path) -> tuple[Path, dict[str, object]]:
    """The folder to read for the folder ``path``, and the options of `datasets.load_dataset` that go with it.

    A split is a folder directly below ``path``. Elsewhere a name such as ``test_07.png`` is no split: one file so named
    would have all others left out. Only where every parquet file is named for a split are their names heeded.

    Raises `DataError` for images that do not lie in one folder per class.
    """
    folder = _part(path)
    files = _files(folder)
    images = [file for file in files if file.suffix.lower() in IMAGES]
    tables = [file for file in files if file.suffix.lower() in TABLES]
    if images and not tables:
        if not any(file.name in METADATA for file in files):
            _check_classes(path, folder, images)
        # By default a class that is alone is no label.
        return folder, {"data_files": "**", "drop_labels": False}
    named = all(SPLIT_IN_NAME.fullmatch(file.stem) for file in tables)
    return folder, {} if named else {"data_files": "**"}


def _part(path: Path) -> Path:
    """The split to read, where ``path`` has any; else ``path``."""
    found = {each.name.lower(): each for each in sorted(path.iterdir()) if each.is_dir() and not _is_class(each)}
    return next((found[name] for name in SPLITS if name in found), path)


def _is_class(folder: Path) -> bool:
    """Whether images lie in ``folder`` itself, without a table of their classes: trains are a class too."""
    files = [file for file in folder.iterdir() if file.is_file()]
    return any(file.suffix.lower() in IMAGES for file in files) and not any(file.name in METADATA for file in files)


def _files(folder: Path) -> list[Path]:
    """All files below ``folder``, sorted, but for what `datasets` passes over: hidden ones and ``__MACOSX``."""
    files: list[Path] = []
    for place, folders, names in walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _check_classes(path: Path, folder: Path, images: list[Path]) -> None:
    expected = f"Expected one folder per class, such as {folder / 'normal' / images[0].name}"
    depths = {len(image.relative_to(folder).parts): image for image in reversed(images)}
    if 1 in depths:
        raise DataError(f"data {str(path)!r}: image {depths[1]} lies in no folder of a class. {expected}")
    if len(depths) > 1:
        one, other = sorted(depths.values())[:2]
        raise DataError(f"data {str(path)!r}: images lie at several depths, such as {one} and {other}. {expected}")
    classes = {image.parent for image in images}
    places = {place for each in classes for place in _between(folder, each)}
    if link := next((place for place in sorted(places) if place.is_symlink()), None):
        raise DataError(
            f"data {str(path)!r}: folder {link} is a link, which datasets.load_dataset passes over. Put the folder "
            f"itself in its place: {link.resolve()}"
        )
    above = {place for each in classes for place in _between(folder, each.parent)}
    if split := next((place for place in sorted(above) if SPLIT_IN_NAME.fullmatch(place.name)), None):
        raise DataError(
            f"data {str(path)!r}: folder {split} is named like a split, which would be called "
            f"{folder / 'train'}. Give the folder to train on itself, such as data = {str(split)!r}, or rename it"
        )
    if folder == path and all(image.parent.name.lower() in SPLITS for image in images):
        raise DataError(
            f"data {str(path)!r}: {images[0].parent} is named like a split, and images lie in it without a folder of "
            f"a class. Expected such as {images[0].parent / 'normal' / images[0].name}"
        )


def _between(folder: Path, inner: Path) -> list[Path]:
    """The folders below ``folder`` down to ``inner``."""
    return [place for place in (inner, *inner.parents) if place != folder and place.is_relative_to(folder)]
