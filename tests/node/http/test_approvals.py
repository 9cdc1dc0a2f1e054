"""Operators look at calls that wait and decide about them by HTTP; others may not."""

from __future__ import annotations

import pytest

from node.http.approval_models import REASON_LIMIT, ApprovalsBody, ApprovalView, WholeApprovalBody
from tests.node.http.fakes import ADMIN, SENDER, VIEWER, World
from tests.node.http.test_answers import exact


async def test_a_call_is_shown_and_decided_once_under_the_name_of_the_token() -> None:
    world = World()
    async with world.client(ADMIN) as client:
        listed = (await client.get("/approvals?limit=2&agent=operator")).json()
        exact(ApprovalsBody).model_validate(listed, strict=True)
        assert (len(listed["approvals"]), listed["next"]) == (2, "approval-1")
        [asked] = world.agents.approvals.asked
        assert asked == {
            "limit": 3,
            "states": ["waiting", "decided", "calling", "resuming"],
            "agent": "operator",
            "before": "",
        }
        await client.get("/approvals?all=true&before=x")
        assert world.agents.approvals.asked[-1]["states"] == ()

        whole = (await client.get("/approvals/approval-1")).json()
        exact(WholeApprovalBody).model_validate(whole, strict=True)
        assert (whole["arguments"], whole["tool"], whole["verdict"]) == ({"name": "db"}, "ops/restart", None)

        decided = await client.post("/approvals/approval-1/deny", json={"reason": "not today"})
        exact(ApprovalView).model_validate(decided.json(), strict=True)
        assert decided.json()["verdict"] == "denied"
        assert decided.json()["decided_by"] == "admin"
        again = await client.post("/approvals/approval-1/approve")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "APPROVAL_DECIDED")
        assert "admin has denied it" in again.json()["error"]["why"]


@pytest.mark.parametrize("token", [SENDER, VIEWER])
async def test_who_may_send_or_look_may_not_approve(token: str) -> None:
    world = World()
    async with world.client(token) as client:
        for method, path in (
            ("GET", "/approvals"),
            ("GET", "/approvals/approval-1"),
            ("POST", "/approvals/approval-1/approve"),
            ("POST", "/approvals/approval-1/deny"),
        ):
            assert (await client.request(method, path)).status_code == 403
    assert world.agents.approvals.row.verdict == ""


async def test_what_is_no_decision_is_refused() -> None:
    world = World()
    async with world.client(ADMIN) as client:
        for body in ({"reason": 1}, {"reason": "x" * (REASON_LIMIT + 1)}, {"why": "typo"}, []):
            assert (await client.post("/approvals/approval-1/approve", json=body)).status_code == 400
        for query in ("limit=0", "limit=201", "all=perhaps", "state=waiting"):
            assert (await client.get(f"/approvals?{query}")).status_code == 400
        missing = await client.post("/approvals/nobody/approve")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "APPROVAL_NOT_FOUND")
    assert world.agents.approvals.row.verdict == ""
