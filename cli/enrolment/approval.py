"""Letting a site in: its key is registered at the SuperLink, its certificate signed, its kit written."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cli.enrolment.authority import Authority, pem
from cli.enrolment.errors import EnrolmentError
from cli.enrolment.files import alone_in, parsed, read_settings, write_public
from cli.enrolment.keys import fingerprint, public_ssh, read_public
from cli.enrolment.kits import kit_folder, membership_of, write_kit
from cli.enrolment.layout import ServerFolder
from cli.enrolment.register import Entry, Issued, Register, read_register
from cli.enrolment.requests import SiteRequest
from cli.enrolment.server import open_server, publish, put_settings, write_settings
from cli.enrolment.settings import Federation, Membership, RunConfig
from cli.enrolment.superlink import reach_superlink, register_node, unregister_node
from cli.flower import FlowerError
from cli.interrupts import uninterrupted

# Until the SuperLink has given the site one.
NO_NODE = "0"


@dataclass(frozen=True)
class Server:
    """The server's folder, opened."""

    folder: ServerFolder
    federation: Federation
    authority: Authority

    @classmethod
    def open(cls, path: Path) -> "Server":
        """The server in the folder ``path``."""
        return cls(*open_server(path))

    def dialled_at(self, address: str) -> "Server":
        """Itself, but its kits name ``address``, HOST:PORT, as the proxy; empty: as it was."""
        return self._with({"proxy": address} if address else {})

    def telling(self, image: str, run: RunConfig | None = None) -> "Server":
        """Itself, but its kits name ``image`` and the run config ``run``; empty and None: as it was."""
        return self._with(({"image": image} if image else {}) | ({"run": run} if run is not None else {}))

    @contextmanager
    def keeping_settings(self) -> Generator[None]:
        """Has ``federation.toml`` say what kits say, so that those to come say it too.

        Before the block, in which certificates are signed: what cannot be written is told first. Where the block
        fails, the file is again as it was.
        """
        before = self.folder.settings.read_bytes()
        changed = read_settings(self.folder.settings, Federation) != self.federation
        if changed:
            write_settings(self.folder, self.federation)
        try:
            yield
        except BaseException:
            if changed:
                put_settings(self.folder, before)
            raise

    def register(self) -> Register:
        """The list of sites as it is now."""
        return read_register(self.folder.register)

    def approve(self, asked: SiteRequest, kit: Path) -> tuple[Entry, str]:
        """The site's entry, and its kit's fingerprint. An enrolled site's new key takes the place of its old one.

        Raises `EnrolmentError` for a key that is on the list already.
        """
        with alone_in(self.folder.path):
            register = self.register()
            if any(each.key == fingerprint(asked.key) for each in register.sites):
                raise EnrolmentError(
                    f"{asked.name}: this key is on the list already. Its next certificate comes with `fedrebasin "
                    "server renew`; a revoked key stays revoked: the site asks anew with another"
                )
            # Its network may not be built, which must be known before anybody is let in.
            membership = membership_of(self.federation, asked.name, NO_NODE)
            with uninterrupted(), kit_folder(kit) as folder:
                return self._approve(register, asked, membership, folder)

    def renew(self, name: str, kit: Path) -> tuple[Entry, str]:
        """The site's entry with one more certificate for its key, and its new kit's fingerprint."""
        with alone_in(self.folder.path):
            register = self.register()
            entry = register.enrolled_or_raise(name)
            membership = membership_of(self.federation, name, entry.node_id)
            with uninterrupted(), kit_folder(kit) as folder:
                key = read_public(entry.public_key.encode())
                certificate = self.authority.sign_site(key, name, self.federation.certificate_days)
                renewed = entry.renewed(certificate)
                return renewed, self._write_kit(register.with_entry(renewed), membership, certificate, folder)

    def revoke(self, name: str) -> Entry:
        """The entry of a site that is shut out: at the proxy first, which works even when the SuperLink is silent.

        Said again, it tells the SuperLink again. Raises `FlowerError` that says so where the SuperLink is silent.
        """
        with alone_in(self.folder.path):
            register = self.register()
            entry = register.newest(name) or register.enrolled_or_raise(name)
            self._publish(register.with_entry(entry.taken_back()))
            (self.folder.issued / f"{name}.site.crt").unlink(missing_ok=True)
        try:
            with reach_superlink(self.folder, self.federation) as link:
                unregister_node(link, entry.node_id)
        except FlowerError as error:
            raise FlowerError(
                f"{name} is refused at the proxy; its key is still known to the SuperLink, which did not answer "
                f"({error}). When it is back, say `fedrebasin server revoke {name}` again"
            ) from error
        return entry

    def _with(self, changes: Mapping[str, object]) -> "Server":
        said = {**self.federation.model_dump(by_alias=True), **changes}
        return replace(self, federation=parsed(Federation, said)) if changes else self

    def _approve(
        self, register: Register, asked: SiteRequest, membership: Membership, folder: Path
    ) -> tuple[Entry, str]:
        certificate = self.authority.sign_site(asked.key, asked.name, self.federation.certificate_days)
        public_key = public_ssh(asked.key)
        with reach_superlink(self.folder, self.federation) as link:
            # What fails from here on is made good by the next try, which finds this node. It is not forgotten instead:
            # Flower never takes a key again that it has forgotten. Until the list says so the proxy lets nobody in.
            node_id = register_node(link, asked.name, public_key)
            old = register.enrolled(asked.name)
            if old is not None:
                unregister_node(link, old.node_id)
                register = register.with_entry(old.taken_back())
        entry = Entry(
            name=asked.name,
            status="enrolled",
            public_key=public_key.decode().strip(),
            node_id=node_id,
            approved=datetime.now(UTC),
            certificates=[Issued.of(certificate)],
        )
        membership = membership.model_copy(update={"node_id": node_id})
        return entry, self._write_kit(register.with_entry(entry), membership, certificate, folder)

    def _write_kit(self, register: Register, said: Membership, certificate: x509.Certificate, folder: Path) -> str:
        """Writes the kit, and only then lets its site in; returns its fingerprint."""
        told = write_kit(folder, said, self.authority.certificate, certificate)
        write_public(self.folder.issued / f"{said.site}.site.crt", pem(certificate))
        self._publish(register)
        return told

    def _publish(self, register: Register) -> None:
        publish(self.folder, self.federation, self.authority, register)
