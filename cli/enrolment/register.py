"""The list of sites that were approved, and of certificates that were taken back."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, ValidationError

from cli.enrolment.errors import EnrolmentError
from cli.enrolment.keys import fingerprint, read_public
from strategies.files import write_text


class Issued(BaseModel, frozen=True):
    """A certificate that was signed for a site. The serial number is hexadecimal; times are in UTC."""

    model_config = ConfigDict(extra="forbid")
    serial: str
    not_after: datetime
    revoked: datetime | None = None

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "Issued":
        """The record of ``certificate``."""
        return cls(serial=f"{certificate.serial_number:x}", not_after=certificate.not_valid_after_utc)


class Entry(BaseModel, frozen=True):
    """One site: its public key as OpenSSH writes it, its number at the SuperLink, all its certificates, newest last."""

    model_config = ConfigDict(extra="forbid")
    name: str
    status: Literal["enrolled", "revoked"]
    public_key: str
    node_id: str
    approved: datetime
    certificates: list[Issued]

    @property
    def key(self) -> str:
        """The fingerprint of the site's key."""
        return fingerprint(read_public(self.public_key.encode()))

    @property
    def not_after(self) -> datetime:
        """When the newest certificate expires."""
        return self.certificates[-1].not_after

    def taken_back(self) -> "Entry":
        """The entry, with all its certificates revoked as of now."""
        now = datetime.now(UTC)
        certificates = [each.model_copy(update={"revoked": each.revoked or now}) for each in self.certificates]
        return self.model_copy(update={"status": "revoked", "certificates": certificates})

    def renewed(self, certificate: x509.Certificate) -> "Entry":
        """The entry with one more certificate."""
        return self.model_copy(update={"certificates": [*self.certificates, Issued.of(certificate)]})


class Register(BaseModel, frozen=True):
    """All entries, in the order of approval. A site that changes its key has one for each of its keys."""

    model_config = ConfigDict(extra="forbid")
    sites: list[Entry] = []

    def enrolled(self, name: str) -> Entry | None:
        """The site of that name that is let in, if there is one."""
        return next((each for each in self.sites if each.name == name and each.status == "enrolled"), None)

    def newest(self, name: str) -> Entry | None:
        """The entry of the newest key under that name, let in or not."""
        return next((each for each in reversed(self.sites) if each.name == name), None)

    def enrolled_or_raise(self, name: str) -> Entry:
        """The site of that name that is let in. Raises `EnrolmentError` that names those there are."""
        entry = self.enrolled(name)
        if entry is None:
            known = ", ".join(each.name for each in self.sites if each.status == "enrolled") or "none"
            raise EnrolmentError(f"no site {name!r} is enrolled; enrolled: {known}")
        return entry

    def with_entry(self, entry: Entry) -> "Register":
        """With ``entry`` in place of that of the same key, or at the end."""
        others = [each for each in self.sites if each.key != entry.key]
        at = next((number for number, each in enumerate(self.sites) if each.key == entry.key), len(others))
        return Register(sites=[*others[:at], entry, *others[at:]])

    def revoked_serials(self) -> Iterator[tuple[int, datetime]]:
        """The serial numbers of certificates that were taken back, and since when."""
        for entry in self.sites:
            for each in entry.certificates:
                if each.revoked is not None:
                    yield int(each.serial, 16), each.revoked


def read_register(path: Path) -> Register:
    """The list in ``path``. Raises `EnrolmentError` when it cannot be read: it is never made anew by itself."""
    try:
        return Register.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise EnrolmentError(f"{path}: the list of sites cannot be read; restore it from a backup: {error}") from error


def write_register(path: Path, register: Register) -> None:
    """Replaces the list, whole or not at all."""
    write_text(path, json.dumps(register.model_dump(mode="json"), indent=1) + "\n").chmod(0o600)
