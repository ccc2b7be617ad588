"""Keys and what they are known by. A site has one key, for its certificate and for Flower: one identity."""

import base64
import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)

from cli.enrolment.errors import EnrolmentError

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def new_key() -> PrivateKey:
    """A new key on the curve that both TLS and Flower's SuperNodes take."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: PrivateKey) -> bytes:
    """The key as TLS programs read it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private_ssh(key: PrivateKey) -> bytes:
    """The key as Flower's SuperNode reads it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def public_ssh(key: PublicKey) -> bytes:
    """The public key as Flower's SuperLink reads it."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"


def read_private(path: Path) -> PrivateKey:
    """The private key in a PEM file. Raises `EnrolmentError` when there is none."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise EnrolmentError(f"{path}: no private key can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrolmentError(f"{path}: expected a key on the curve P-384, got {type(key).__name__}")
    return key


def read_public(text: bytes) -> PublicKey:
    """The inverse of `public_ssh`."""
    key = load_ssh_public_key(text)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def fingerprint(key: PublicKey) -> str:
    """What a person compares: the same as ``ssh-keygen -l`` shows."""
    return digest(base64.b64decode(public_ssh(key).split()[1]))


def digest(content: bytes) -> str:
    """SHA-256 in the form of ``ssh-keygen``: short enough to read out on the telephone."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
