"""Who may do what through the admin API."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import Forbidden, SecurityMaterialInvalid, Unauthorized
from node.security.permissions import FRAMES, ROLES, ROUTES, Permission, route_permission
from node.security.tokens import Tokens, new_token, tokens_yaml
from tests.node.security.environments import seeded


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "tokens.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_each_token_has_its_own_role(tmp_path: Path) -> None:
    environment, _ = seeded()
    issued = [(role, role, new_token(environment)) for role in ROLES]
    tokens = Tokens.load(write(tmp_path, tokens_yaml(issued)))
    for name, role, token in issued:
        principal = tokens.authenticate(token)
        assert (principal.name, principal.permissions) == (name, ROLES[role])


def test_no_token_and_wrong_tokens_are_refused_and_counted(tmp_path: Path) -> None:
    environment, _ = seeded()
    token = new_token(environment)
    tokens = Tokens.load(write(tmp_path, tokens_yaml([("admin", "admin", token)])))
    wrong = [None, "", token[:-1], token + "x", token.upper(), "x" * 10_000, "\ud800"]
    for attempt in wrong:
        with pytest.raises(Unauthorized):
            tokens.authenticate(attempt)
    assert tokens.statistics() == {"tokens": 1, "refused": len(wrong)}


@given(st.text())
def test_no_text_is_a_token_by_chance(text: str) -> None:
    with pytest.raises(Unauthorized):
        Tokens([("a", "admin", "0" * 64)]).authenticate(text)


def test_dev_mode_lets_in_who_shows_no_token_but_not_who_shows_a_wrong_one() -> None:
    tokens = Tokens(dev_mode=True)
    assert Permission.MANAGE_CLUSTER in tokens.authenticate(None).permissions
    with pytest.raises(Unauthorized):
        tokens.authenticate("guess")


def test_a_principal_lacks_what_its_role_lacks() -> None:
    environment, _ = seeded()
    token = new_token(environment)
    viewer = Tokens([("v", "viewer", hashlib.sha256(token.encode()).hexdigest())]).authenticate(token)
    viewer.require(Permission.VIEW_METRICS)
    viewer.require(Permission.PUBLIC)
    with pytest.raises(Forbidden, match="DeployAgent"):
        viewer.require(Permission.DEPLOY_AGENT)


@pytest.mark.parametrize("role", list(ROLES))
def test_no_role_may_speak_as_a_node(role: str) -> None:
    assert Permission.PEER not in ROLES[role]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tokens: 3",
        "tokens: [1]",
        "{",
        "tokens: [{name: a, role: admin}]",
        "tokens: [{name: a, role: king, sha256: " + "0" * 64 + "}]",
        "tokens: [{name: a, role: admin, sha256: abc}]",
        "tokens: [{name: '', role: admin, sha256: " + "0" * 64 + "}]",
        "tokens: [{name: a, role: admin, sha256: " + "0" * 64 + ", 1: 2}]",
        "tokens: [" + "{}, " * 300 + "]",
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_a_token_list_that_is_not_valid_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(SecurityMaterialInvalid):
        Tokens.load(write(tmp_path, text))


def test_a_misspelt_role_gets_a_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path, "tokens: [{name: a, role: admim, sha256: " + "0" * 64 + "}]")
    with pytest.raises(SecurityMaterialInvalid, match="'admin'"):
        Tokens.load(path)


def test_routes_without_a_permission_are_refused() -> None:
    assert route_permission("GET", "/health") is Permission.PUBLIC
    with pytest.raises(Forbidden):
        route_permission("PUT", "/health")
    with pytest.raises(Forbidden):
        route_permission("GET", "/secrets")


def test_only_harmless_routes_are_public_and_the_alias_equals_the_original() -> None:
    public = {route for route, permission in ROUTES.items() if permission is Permission.PUBLIC}
    assert public == {("GET", "/health"), ("GET", "/openapi.json"), ("GET", "/docs")}
    for (method, path), permission in ROUTES.items():
        if path.startswith("/agents"):
            assert ROUTES[method, path.replace("/agents", "/config-agents", 1)] is permission
    assert set(FRAMES.values()) == {Permission.PEER}
