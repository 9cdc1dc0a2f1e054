"""Brings one delivery to its receiver by HTTP, and refuses to go where a webhook must not reach.

A webhook's URL comes from a client, and the node can reach what the client cannot. So the name is resolved
first, the address is judged, and the connection goes to the very address that was judged: a name that answers
differently the second time gains nothing. Redirects are failures, environment variables name no proxy, and of
the answer nothing but its status is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult

from node.config.model import WebhooksConfig
from node.environment import Environment
from node.errors import CaxtonError, ValidationFailed
from node.security import outbound
from node.security.outbound import Pinned, is_public, is_within, plain_address, resolve_all, target_of
from node.webhook_signature import ID, SIGNATURE, TIMESTAMP, sign

if TYPE_CHECKING:
    import httpx

ATTEMPT_S: Final = 10.0
"""Longest time that one attempt may take, from the look-up of the name to the status, in seconds."""


class TargetForbidden(CaxtonError):
    """A webhook leads to an address that this node is not to call."""

    code = "TARGET_FORBIDDEN"
    status = 403


class AttemptFailed(CaxtonError):
    """A delivery did not arrive."""

    code = "DELIVERY_FAILED"
    status = 502


def split_url(url: str) -> SplitResult:
    """The parts of a webhook's URL.

    Raises:
        ValidationFailed: it is none, or has a user, a fragment or an impossible port.
    """
    try:
        return outbound.split_url(url)
    except ValueError as error:
        raise ValidationFailed(
            "this is no URL for a webhook", why=str(error), details={"field": "url"}
        ) from None


@dataclass(frozen=True, slots=True)
class Policy:
    """Where webhooks may lead.

    Args:
        settings: The section ``webhooks``.
        dev_mode: Whether the node is in dev mode, in which this machine may be called.
    """

    settings: WebhooksConfig
    dev_mode: bool

    def check_scheme(self, parts: SplitResult) -> None:
        """Refuse a URL without encryption; in dev mode its address decides.

        Raises:
            TargetForbidden: it must not be used.
        """
        if parts.scheme == "http" and self.settings.require_https and not self.dev_mode:
            raise TargetForbidden(
                "a webhook needs https",
                why="messages would travel in the clear",
                fix="Use an https URL, or set webhooks.require_https to false.",
                details={"field": "url"},
            )

    def check_address(self, address: str, parts: SplitResult) -> None:
        """Refuse an address that is not public, unless the configuration allows it.

        Raises:
            TargetForbidden: it must not be called.
        """
        ip = plain_address(address)
        if is_within(ip, self.settings.allowed_networks):
            return
        if self.dev_mode and ip.is_loopback:
            return
        if not is_public(ip):
            raise TargetForbidden(
                f"{parts.hostname} leads to {ip}, which is no public address",
                why="a webhook could reach what only this node can",
                fix="Add its network to webhooks.allowed_networks if it is meant.",
                details={"field": "url"},
            )
        if parts.scheme == "http" and self.settings.require_https:
            raise TargetForbidden(
                "a webhook needs https beyond this machine", fix="Use an https URL.", details={"field": "url"}
            )


class Courier:
    """See the module's docstring.

    Args:
        environment: Clock and network.
        policy: Where it may go.
        version: This node's software, as its name for itself.
    """

    def __init__(self, *, environment: Environment, policy: Policy, version: str) -> None:
        self._environment, self._policy = environment, policy
        self._agent = f"caxton/{version}"
        self._http: httpx.AsyncClient | None = None

    async def bring(self, url: str, *, delivery_id: str, secret: str, body: bytes) -> None:
        """One attempt.

        Args:
            url: Where to.
            delivery_id: The same in all attempts.
            secret: What it is signed with.
            body: JSON.

        Raises:
            TargetForbidden: it leads to where it must not.
            AttemptFailed: it did not arrive, or was refused.
        """
        clock = self._environment.clock
        stamp = int(clock.wall())
        headers = {
            "content-type": "application/json",
            "user-agent": self._agent,
            ID: delivery_id,
            TIMESTAMP: str(stamp),
            SIGNATURE: sign(secret, stamp, body),
        }
        with clock.move_on_after(ATTEMPT_S):
            status = await self._post(split_url(url), headers, body)
            if 200 <= status < 300:
                return
            if 300 <= status < 400:
                raise AttemptFailed(f"it answered {status}", why="redirects are not followed")
            raise AttemptFailed(f"it answered {status}")
        raise AttemptFailed(f"no answer within {ATTEMPT_S:.0f} s")

    async def aclose(self) -> None:
        """Close what is open."""
        if self._http is not None:
            await self._http.aclose()

    async def _post(self, parts: SplitResult, headers: Mapping[str, str], body: bytes) -> int:
        import httpx  # noqa: PLC0415 - 100 ms of import that a node without webhooks is spared

        if self._http is None:
            # No connection is kept: one to an address could be taken for another host's at the same address.
            self._http = httpx.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                timeout=ATTEMPT_S,
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        host, port = target_of(parts)
        try:
            address = await self._judged(parts, host, port)
            request = Pinned(parts, address).request(self._http, "POST", headers=headers, content=body)
            response = await self._http.send(request, stream=True)
            await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            text = f"{type(error).__name__}: {error}".rstrip(": ")
            raise AttemptFailed("it could not be reached", why=text[:200]) from None
        return int(response.status_code)

    async def _judged(self, parts: SplitResult, host: str, port: int) -> str:
        """The address to connect to; every address of the name must be one that may be called."""
        self._policy.check_scheme(parts)
        found = await resolve_all(self._environment.network, host, port)
        for address in found:
            self._policy.check_address(address, parts)
        if not found:
            raise AttemptFailed(f"{host} has no address")
        return found[0]
