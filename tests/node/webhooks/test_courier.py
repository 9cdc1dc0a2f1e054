"""Where webhooks may lead."""

from __future__ import annotations

import pytest

from node.config.model import WebhooksConfig
from node.webhooks.courier import Policy, TargetForbidden, split_url

HTTPS = split_url("https://hooks.example/")
HTTP = split_url("http://hooks.example/")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(TargetForbidden):
        Policy(WebhooksConfig(), dev_mode=False).check_address(address, HTTPS)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_what_is_public_is_called_with_https_only(address: str) -> None:
    for dev_mode in (False, True):
        policy = Policy(WebhooksConfig(), dev_mode)
        policy.check_address(address, HTTPS)
        with pytest.raises(TargetForbidden, match="https"):
            policy.check_address(address, HTTP)
    Policy(WebhooksConfig(require_https=False), dev_mode=False).check_address(address, HTTP)


def test_the_configuration_allows_networks_by_name() -> None:
    policy = Policy(WebhooksConfig(allowed_networks=("10.0.0.0/8", "fd00::/8")), dev_mode=False)
    policy.check_address("10.9.9.9", HTTPS)
    policy.check_address("::ffff:10.9.9.9", HTTPS)
    policy.check_address("fd00::7", HTTPS)
    for other in ("192.168.1.1", "127.0.0.1"):
        with pytest.raises(TargetForbidden):
            policy.check_address(other, HTTPS)


def test_dev_mode_allows_this_machine_and_no_other() -> None:
    policy = Policy(WebhooksConfig(), dev_mode=True)
    for address in ("127.0.0.1", "::1"):
        policy.check_address(address, HTTP)
    with pytest.raises(TargetForbidden):
        policy.check_address("10.0.0.1", HTTPS)
