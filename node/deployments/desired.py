"""What is desired: one author-signed register of the cluster map for each deployment.

The key is ``deploy/AGENT``. The value says what is run (by the SHA-256 of its package), how often, and
where it may be. It is read last writer wins by hybrid logical clock and kept whatever becomes of its
author; a deletion is a register as well, so that a node that comes back learns that its replica is no
longer wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from node.deployments.limits import PRIORITY_LIMIT, REPLICAS_LIMIT
from node.errors import ValidationFailed
from node.labels import REQUIRED_LIMIT, Labels, check_labels
from swim import strict_cbor
from swim.units import MAX_BUCKET_BYTES

PREFIX: Final = "deploy/"
FORMAT: Final = 1
"""Of the value; a node leaves values of another format alone, and starts and stops nothing for them."""
NAME_LIMIT: Final = 128
SHORT: Final = 16
"""So many hexadecimal digits of a digest tell the packages of one deployment apart."""
_DIGEST_BYTES: Final = 32

Minority = Literal["keep", "stop"]
"""What replicas do on the smaller side of a partition: go on, or stop once it has lasted."""
MINORITIES: Final[tuple[Minority, ...]] = get_args(Minority)


@dataclass(frozen=True, slots=True)
class Desired:
    """One deployment.

    Args:
        agent: Id of the agent, which names the deployment: unique in the cluster.
        name: The agent's name.
        version: Of its definition.
        digest: SHA-256 of the package that is run, in hexadecimal.
        size: Of the package in bytes.
        replicas: How many nodes run it; 0 keeps it deployed and runs none.
        requires: Labels that a node must have.
        priority: Whose replicas are started first where several wait, 0 to 1000.
        minority: What replicas do on the smaller side of a partition.
        by: Who has written it, and on which node, by that node's word.
    """

    agent: str
    name: str
    version: str
    digest: str
    size: int
    replicas: int
    requires: Labels = ()
    priority: int = 50
    minority: Minority = "keep"
    by: str = ""

    @property
    def key(self) -> str:
        """Of its register."""
        return PREFIX + self.agent

    @property
    def short(self) -> str:
        """What tells its package from others of the same agent."""
        return self.digest[:SHORT]

    def encode(self) -> bytes:
        """The value of its register."""
        said = [FORMAT, self.name, self.version, bytes.fromhex(self.digest), self.size, self.replicas]
        said += [[list(label) for label in self.requires], self.priority, self.minority, self.by]
        return strict_cbor.encode(said)


def decode(key: str, value: bytes) -> Desired | None:
    """What a register says; None where it is not well-formed, or of another format.

    Args:
        key: Of the register.
        value: What some node has signed: its word, but not therefore well-formed.
    """
    try:
        found = strict_cbor.decode(value, max_bytes=MAX_BUCKET_BYTES)
        form, name, version, digest, size, replicas, labels, priority, minority, by = found
        if form != FORMAT or type(digest) is not bytes or len(digest) != _DIGEST_BYTES:
            return None
        requires = check_labels(labels, REQUIRED_LIMIT)
    except (ValueError, TypeError, ValidationFailed):
        return None
    agent = key.removeprefix(PREFIX)
    texts = all(type(text) is str and 0 < len(text) <= NAME_LIMIT for text in (agent, name, version))
    numbers = all(type(number) is int for number in (size, replicas, priority))
    if not (texts and numbers) or "/" in agent or minority not in MINORITIES or size <= 0:
        return None
    if not (0 <= replicas <= REPLICAS_LIMIT and 0 <= priority <= PRIORITY_LIMIT):
        return None
    if type(by) is not str or len(by) > NAME_LIMIT:
        return None
    return Desired(agent, name, version, digest.hex(), size, replicas, requires, priority, minority, by)
