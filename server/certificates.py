"""When certificates end."""

from pathlib import Path

from cryptography import x509

from server.tail import read_small

ENDINGS = (".crt", ".pem", ".cer")


def expiries(places: tuple[Path, ...]) -> dict[str, float]:
    """By path, when the first certificate in each file ends, in seconds since 1970.

    A place is a file, or a folder whose certificate files count. What cannot be read, or is no certificate, is left
    out: a certificate that is being renewed is missing for a moment. `unusable` says which these are.
    """
    found: dict[str, float] = {}
    for path in (path for place in places for path in _files(place)):
        if chain := _chain(path):
            # The path and not the name: two folders may hold files of one name, and one must not hide the other.
            found[str(path)] = min(each.not_valid_after_utc.timestamp() for each in chain)
    return dict(sorted(found.items()))


def unusable(places: tuple[Path, ...]) -> list[str]:
    """What is wrong with ``places``: of what is told there, nothing is exported."""
    found = [f"{place}: no such file or folder" for place in places if not place.exists()]
    found += [
        f"{place}: a folder without {', '.join(ENDINGS)}" for place in places if place.is_dir() and not _files(place)
    ]
    files = (path for place in places if place.exists() for path in _files(place))
    return found + [f"{path}: no certificate in PEM that we may read" for path in files if not _chain(path)]


def _chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_small(path) or b"")
    except ValueError:
        return []


def _files(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.suffix in ENDINGS) if place.is_dir() else [place]
    except OSError:
        return []
