"""Receivers on loopback: a mail server, and a web server that takes posts."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from clinical_assets.governance.incidents import Cause, Event, Severity
from clinical_assets.governance.notices import Notice


def notice(number: int = 1, **changes: Any) -> Notice:
    given = {
        **{"incident_id": "0123456789ab", "number": number, "event": Event.OPENED, "model": "sepsis"},
        **{"cause": Cause.PHI_LEAK, "severity": Severity.AT_ONCE, "month": date(2025, 9, 1)},
        **{"at": datetime(2026, 3, 1, 6, tzinfo=UTC), "demo": False},
    }
    return Notice(**given | changes)


@dataclass
class MailServer:
    """An SMTP sink; `refused` is an address that it does not take."""

    port: int = 0
    refused: str = ""
    messages: list[tuple[list[str], EmailMessage]] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802, the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == self.refused:
            return "550 no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        message = BytesParser(policy=default).parsebytes(envelope.original_content or b"")
        assert isinstance(message, EmailMessage)
        self.messages.append((list(envelope.rcpt_tos), message))
        return "250 OK"


@contextmanager
def mail_server(port: int = 0) -> Iterator[MailServer]:
    """A mail server on loopback until the block ends."""
    server = MailServer()
    controller = Controller(server, hostname="127.0.0.1", port=port or free_port())
    controller.start()
    server.port = controller.port
    try:
        yield server
    finally:
        controller.stop()


@dataclass
class WebServer:
    """A web server that answers `status`; what it was posted, with headers."""

    port: int = 0
    status: int = 200
    location: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)
    posts: list[tuple[str, dict[str, str], str]] = field(default_factory=list)


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A web server on loopback until the block ends."""
    known = WebServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            known.posts.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            content = json.dumps(known.answer).encode()
            self.send_response(known.status)
            if known.location:
                self.send_header("Location", known.location)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]
