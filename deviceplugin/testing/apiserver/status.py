"""Refusals as Kubernetes writes them: a Status object and an HTTP status."""

from __future__ import annotations

from typing import Any


class StatusError(Exception):
    """A request that is refused."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details

    def body(self) -> dict[str, Any]:
        """The Status object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


def not_found(plural: str, name: str) -> StatusError:
    """There is no such object."""
    return StatusError(404, "NotFound", f'{plural} "{name}" not found', name=name, kind=plural)


def conflict(plural: str, name: str) -> StatusError:
    """The object is a newer one than the request was made for."""
    return StatusError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {plural} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again",
        name=name,
        kind=plural,
    )


def invalid(plural: str, name: str, why: str) -> StatusError:
    """The object would break a rule."""
    return StatusError(422, "Invalid", f'{plural} "{name}" is invalid: {why}', name=name)


def bad_request(why: str) -> StatusError:
    """The request makes no sense."""
    return StatusError(400, "BadRequest", why)
