"""Errors of tool servers that operators see."""

from __future__ import annotations

from node.errors import CaxtonError


class ToolServerNotFound(CaxtonError):
    """No tool server of that name is configured on this node."""

    code = "TOOL_SERVER_NOT_FOUND"
    status = 404


class ToolApprovalFailed(CaxtonError):
    """A tool cannot be approved: there is none of that name that waits, or it has changed again."""

    code = "TOOL_NOT_APPROVABLE"
    status = 409
