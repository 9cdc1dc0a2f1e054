"""What is demanded of membership: ``always_``, ``eventually_``, ``finally_``, and met ``sometimes_``."""

from typing import Final

from simulations.properties import always, eventually, finally_
from simulations.properties.base import Bounds, Context, Property, Violation
from simulations.properties.sometimes import Sometimes

PROPERTIES: Final[dict[str, type[Property]]] = {
    kind.name: kind
    for kind in (
        always.PacketsFit,
        always.WordsGoForward,
        always.NoFalseDeath,
        always.WithinBounds,
        always.CorruptionIsDropped,
        always.EventsTellTheTable,
        always.TheGoneStayGone,
        always.NobodyIsTwice,
        eventually.CrashesAreDetected,
        eventually.JoinersAreKnown,
        eventually.TheGoneAreReaped,
        finally_.NoLiveMemberIsHeldDead,
        finally_.EverybodyIsKnown,
        finally_.NobodyGoneIsHeldUp,
        finally_.ViewsAgree,
        finally_.StatesSettle,
    )
}
"""All properties by name; every run checks all of them."""

__all__ = ["PROPERTIES", "Bounds", "Context", "Property", "Sometimes", "Violation"]
