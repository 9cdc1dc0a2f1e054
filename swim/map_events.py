"""What the replicated maps tell the views that are built on them."""

from dataclasses import dataclass

from swim.units import Generation


@dataclass(frozen=True, slots=True)
class EntryChanged:
    """An entry of an owner's map has a new value, or None because it is gone."""

    owner: str
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class OwnerReset:
    """An owner has begun a new life; its entries follow as `EntryChanged`."""

    owner: str
    generation: Generation


@dataclass(frozen=True, slots=True)
class OwnerForgotten:
    """An owner's map is gone, each of its entries having been reported as deleted before."""

    owner: str


@dataclass(frozen=True, slots=True)
class ClusterChanged:
    """A key of the cluster map has a new value, or None because it was deleted."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class ClusterConflict:
    """A concurrent write of a key lost; `conflicts(key)` shows it."""

    key: str


@dataclass(frozen=True, slots=True)
class BehindHorizon:
    """This node had been away when deletions were retired: its registers are being pulled anew."""

    horizon: int


@dataclass(frozen=True, slots=True)
class Rebased:
    """The own generation is a new one, whose counter has to be written to disk."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class DuplicateIdentity:
    """Another process publishes under this node's name; `stays` says whether this one goes on."""

    boot_id: bytes
    stays: bool


@dataclass(frozen=True, slots=True)
class EventsLost:
    """More events were waiting than are kept: views have to be built anew from the maps."""


MapEvent = (
    EntryChanged
    | OwnerReset
    | OwnerForgotten
    | ClusterChanged
    | ClusterConflict
    | BehindHorizon
    | Rebased
    | DuplicateIdentity
    | EventsLost
)
