"""What leaves a member in datagrams: answers with what else fits, and bursts of gossip.

A message that has to go out now shares its packet with rumours and map units (`swim.broadcast`). What
waits for longer leaves with the gossip ticks, to a few members at a time; where much waits, several
packets go to each of them.
"""

from collections.abc import Sequence
from typing import Final

from swim.broadcast import Piggyback, Replicated, RumourQueue
from swim.codec import LENGTH_BYTES, MAX_MESSAGES, SENDER_BYTES, encode_message, join_packet
from swim.config import MAX_PACKET_BYTES, SwimConfig
from swim.events import Effect, SendDatagram
from swim.keyring import MAX_OVERHEAD_BYTES, Channel, Envelope
from swim.members import MemberTable, Record
from swim.messages import Address, Message

BODY_BYTES: Final = MAX_PACKET_BYTES - MAX_OVERHEAD_BYTES - SENDER_BYTES
"""Room for messages and their lengths in one datagram."""


class Outgoing:
    """Packs messages into datagrams.

    Args:
        config: the parameters.
        name: of this member.
        envelope: protects packets.
        rumours: the statements that wait.
        user: the user events and queries that wait.
        replicated: the map, whose units wait too.
        table: whom gossip may reach.
        effects: where effects are appended.
    """

    def __init__(
        self,
        config: SwimConfig,
        name: str,
        envelope: Envelope,
        *,
        rumours: RumourQueue,
        user: RumourQueue,
        replicated: Replicated,
        table: MemberTable,
        effects: list[Effect],
    ) -> None:
        self._config = config
        self._name = name
        self._envelope = envelope
        self._table = table
        self._piggyback = Piggyback(rumours, replicated, user, config.max_map_frame_bytes)
        self._effects = effects
        self._packets = self._bytes = 0

    def waits(self) -> bool:
        """Say whether anything waits for a gossip tick."""
        return self._piggyback.waits()

    def fresh(self) -> bool:
        """Say whether anything waits that was never sent."""
        return self._piggyback.fresh()

    def send(
        self,
        to: Address,
        messages: Sequence[Message],
        record: Record | None = None,
        *,
        statements: Sequence[bytes] = (),
    ) -> None:
        """Send messages with what else fits; a doubted, dead or departed receiver is told so (buddy system).

        Args:
            to: where to.
            messages: what has to go out now.
            record: what is known of the receiver.
            statements: encoded statements that go with it.
        """
        encoded = [*map(encode_message, messages), *statements]
        if record is not None and record.verdict is not None:
            encoded.append(record.encoded_verdict)
        room = BODY_BYTES - sum(map(len, encoded)) - LENGTH_BYTES * len(encoded)
        if room > 0 and self._piggyback.waits():
            members = self._table.up_count + 1
            transmissions = self._config.retransmissions(members)
            encoded += self._piggyback.fill(
                room, members=members, transmissions=transmissions, already=encoded
            )
        self.send_encoded(to, encoded)

    def gossip(self, to: Address) -> None:
        """Send what waits, in up to `gossip_packets` full packets; nothing if nothing waits."""
        members = self._table.up_count + 1
        encoded = self._piggyback.burst(
            self._config.gossip_packets * BODY_BYTES,
            members=members,
            transmissions=self._config.retransmissions(members),
        )
        self.send_encoded(to, encoded)

    def send_encoded(self, to: Address, encoded: Sequence[bytes]) -> None:
        """Send encoded messages in as many datagrams as they need."""
        batch: list[bytes] = []
        room = BODY_BYTES
        for message in encoded:
            if batch and (len(message) + LENGTH_BYTES > room or len(batch) >= MAX_MESSAGES):
                self._send_datagram(to, batch)
                batch, room = [], BODY_BYTES
            batch.append(message)
            room -= len(message) + LENGTH_BYTES
        if batch:
            self._send_datagram(to, batch)

    def statistics(self) -> dict[str, int]:
        """Count the datagrams sent and their bytes, without the headers of UDP and IP."""
        return {"packets_sent": self._packets, "bytes_sent": self._bytes}

    def _send_datagram(self, to: Address, encoded: Sequence[bytes]) -> None:
        data = self._envelope.seal(Channel.DATAGRAM, join_packet(self._name, encoded))
        if len(data) > MAX_PACKET_BYTES:
            raise RuntimeError(f"a packet of {len(data)} bytes was built: the limits do not add up")
        self._packets += 1
        self._bytes += len(data)
        self._effects.append(SendDatagram(data, to))
