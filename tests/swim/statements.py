"""Statements about members, signed by whomever a test wants."""

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swim.identity import Ed25519Identity
from swim.keyring import VERSIONS
from swim.messages import Alive, Boot, Dead, Left, Suspect, doubt_bytes
from tests.swim.net import WALL, Net, identity_of

BOOT = Boot(int(WALL * 1000), b"b" * 8)


def signed(alive: Alive, name: str, ca: Ed25519PrivateKey | None = None) -> Alive:
    """Sign an Alive with the key of `name`, certified by our authority or by another one."""
    identity = identity_of(name) if ca is None else identity_of(name, ca)
    alive = replace(alive, credential=identity.credential)
    return replace(alive, signature=identity.sign(alive.signed_bytes()))


def stranger(name: str, meta: bytes = b"", *, host: str | None = None, boot: Boot = BOOT) -> Alive:
    """Return the word of a member that no process of the network is."""
    alive = Alive(name, host or name, 7946, boot, 0, meta, *VERSIONS, 0, bytes(range(32)), b"")
    return signed(alive, name)


def word(net: Net, name: str, **changes: object) -> Alive:
    """Return a member's latest word with changes, properly signed by it."""
    own = net.hosts[name].swim.own
    return signed(replace(own, **changes), own.name)  # type: ignore[arg-type]


def doubt(about: Alive, *authors: str) -> Suspect:
    """Return the doubt that these authors have signed."""
    return Suspect(about.name, about.boot, about.incarnation, _signatures(about, authors))


def verdict(about: Alive, *authors: str, declarer: str = "") -> Dead:
    """Return the verdict that rests on the doubts of these authors; the first one declares it."""
    declarer = declarer or authors[0]
    dead = Dead(about.name, about.boot, about.incarnation, _signatures(about, authors), declarer)
    return replace(dead, signature=identity_of(declarer).sign(dead.signed_bytes()))


def goodbye(about: Alive, identity: Ed25519Identity | None = None) -> Left:
    """Return the goodbye of a member, signed by it unless another identity is given."""
    left = Left(about.name, about.boot, about.incarnation)
    return replace(left, signature=(identity or identity_of(about.name)).sign(left.signed_bytes()))


def _signatures(about: Alive, authors: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    return tuple(
        (author, identity_of(author).sign(doubt_bytes(about.name, about.boot, about.incarnation, author)))
        for author in authors
    )
