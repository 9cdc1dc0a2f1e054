"""Links of the simulator as rules of the kernel: nftables for what is lost and cut, queueing for the rest.

What a node does not hear is dropped where it arrives, by the sender's address, so that every direction of
every pair has its own rule; a ruleset replaces the last one in one step. What makes a link slow happens where
it is sent: a class of HTB for each peer, with netem behind it, or a plain queue where only the capacity is
limited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from simulations.links import Link, Links

PARTS: Final = 1_000_000
"""Chances are drawn in millionths."""
BITS: Final = 8
TABLE: Final = "caxton_twin"
DEVICE: Final = "eth0"
UNLIMITED: Final = "10gbit"
NETEM_PACKETS: Final = 20_000
"""Packets that wait in a netem queue at most."""
NEGLIGIBLE_S: Final = 0.005
"""A delay within a local network: where the kernel cannot delay packets, it is left out and told."""


def longest_delay_s(link: Link) -> float:
    """The delay a link promises to stay within, its tail aside."""
    return link.delay_s + link.jitter_s


def ruleset(name: str, addresses: Mapping[str, str], links: Links) -> str:
    """What a node drops of what arrives, as a file for ``nft -f``.

    Args:
        name: The node.
        addresses: Of all nodes, by name.
        links: Between them.
    """
    lines = [f"table ip {TABLE}", f"delete table ip {TABLE}", f"table ip {TABLE} {{", "  chain input {"]
    lines.append("    type filter hook input priority filter; policy accept;")
    for source, address in addresses.items():
        if source == name:
            continue
        link = links.of(source, name)
        parts = round(link.loss * PARTS)
        if link.cut or parts >= PARTS:
            lines.append(f"    ip saddr {address} drop")
            continue
        if link.cut_datagrams:
            lines.append(f"    ip saddr {address} meta l4proto udp drop")
        if link.loss:
            lines.append(f"    ip saddr {address} numgen random mod {PARTS} < {max(1, parts)} drop")
    return "\n".join([*lines, "  }", "}", ""])


def queueing(name: str, addresses: Mapping[str, str], links: Links, *, netem: bool) -> str:
    """How a node sends, as a batch for ``tc``; nothing if no link of it is slow.

    Args:
        name: The node.
        addresses: Of all nodes, by name.
        links: Between them.
        netem: Whether the kernel can delay packets.
    """
    peers = [(number, peer) for number, peer in enumerate(addresses, 0x10) if peer != name]
    slow = [
        (number, peer, links.of(name, peer))
        for number, peer in peers
        if is_slow(links.of(name, peer), netem=netem)
    ]
    if not slow:
        return ""
    lines = [f"qdisc add dev {DEVICE} root handle 1: htb"]  # without a default class the rest is not held up
    for number, peer, link in slow:
        rate = (
            UNLIMITED
            if link.capacity_bytes_s is None
            else f"{max(8, round(link.capacity_bytes_s * BITS))}bit"
        )
        lines.append(f"class add dev {DEVICE} parent 1: classid 1:{number:x} htb rate {rate} quantum 1514")
        leaf = netem_arguments(link) if netem else ""
        behind = (
            f"netem limit {NETEM_PACKETS} {leaf}" if leaf else f"bfifo limit {max(1514, link.queue_bytes)}"
        )
        lines.append(f"qdisc add dev {DEVICE} parent 1:{number:x} {behind}".rstrip())
        lines.append(
            f"filter add dev {DEVICE} parent 1: protocol ip prio 1 u32 match ip dst {addresses[peer]}/32 "
            f"flowid 1:{number:x}"
        )
    return "\n".join([*lines, ""])


def is_slow(link: Link, *, netem: bool) -> bool:
    """Whether a link needs a queue of its own."""
    return link.capacity_bytes_s is not None or (netem and bool(netem_arguments(link)))


def netem_arguments(link: Link) -> str:
    """What netem does to one link.

    Its delay is uniform around a mean, as the simulator's is above a minimum. Reordering lets all but some
    packets go ahead of a short delay, which is the same as letting some fall behind.
    """
    words: Sequence[str] = ()
    if link.reorder:
        overtaking = 100 * (1 - link.reorder)
        behind_ms = 1000 * link.reorder_s / 2
        words = ("delay", f"{behind_ms:g}ms", f"{behind_ms:g}ms", "reorder", f"{overtaking:g}%")
    elif link.delay_s or link.jitter_s:
        half_ms = 1000 * link.jitter_s / 2
        words = ("delay", f"{1000 * link.delay_s + half_ms:g}ms", *((f"{half_ms:g}ms",) if half_ms else ()))
    if link.duplicate:
        words = (*words, "duplicate", f"{100 * link.duplicate:g}%")
    if link.corrupt:
        words = (*words, "corrupt", f"{100 * link.corrupt:g}%")
    return " ".join(words)
