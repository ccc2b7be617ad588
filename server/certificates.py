"""When certificates end."""

from pathlib import Path

from cryptography import x509

from server.tail import read_small

ENDINGS = (".crt", ".pem", ".cer")


def expiries(places: tuple[Path, ...]) -> dict[str, float]:
    """By file name, when the first certificate in each file ends, in seconds since 1970.

    A place is a file, or a folder whose certificate files count. What cannot be read, or is no certificate, is left
    out: a certificate that is being renewed is missing for a moment.
    """
    found: dict[str, float] = {}
    for path in (path for place in places for path in _files(place)):
        try:
            chain = x509.load_pem_x509_certificates(read_small(path) or b"")
        except ValueError:
            continue
        found[path.name] = min(each.not_valid_after_utc.timestamp() for each in chain)
    return dict(sorted(found.items()))


def _files(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.suffix in ENDINGS) if place.is_dir() else [place]
    except OSError:
        return []
