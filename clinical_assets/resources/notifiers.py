"""How people are told: by e-mail, a webhook or Slack, as `notifiers.toml` of the home says.

Belongs here: the settings and one sender a channel. Does not belong here: what is told (governance/notices.py), and
what happens where a receiver is down (outbox.py).

    [roles]                                   # who is told by e-mail; both roles are needed where there is [email]
    on_call = ["on-call@hospital.example"]
    clinical_lead = ["lead@hospital.example"]

    [email]
    host = "smtp.hospital.example"
    port = 587
    sender = "clinical-assets@hospital.example"
    user = "clinical-assets"                  # optional
    password_env = "CLINICAL_SMTP_PASSWORD"   # secrets stand in the environment, never in this file

    [webhook.pager]
    url = "https://pager.hospital.example/hook"
    token_env = "CLINICAL_PAGER_TOKEN"        # optional, sent as a bearer token

    [slack]
    channel = "#clinical-models"
    token_env = "CLINICAL_SLACK_TOKEN"
"""

import json
import os
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clinical_assets.governance.notices import TOLD, Notice

TIMEOUT_SECONDS = 10.0
SLACK_ADDRESS = "https://slack.com/api/"


class NotifierError(RuntimeError):
    """A notice cannot be sent, or the settings cannot be used; the message names the channel or the field."""


class Notifier(Protocol):
    """A channel by which people are told."""

    @property
    def name(self) -> str:
        """The channel, as it stands in an undelivered notice."""
        ...

    def send(self, notice: Notice) -> None:
        """Hand the notice to the receiver; raises NotifierError where it did not take it."""
        ...


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EmailSettings(_Settings):
    """A mail server, and the account to use there, if any."""

    host: str
    port: int = Field(default=587, ge=1, le=65535)
    sender: str
    user: str = ""
    password_env: str = ""


class WebhookSettings(_Settings):
    """An address that takes JSON by POST."""

    url: str
    token_env: str = ""


class SlackSettings(_Settings):
    """A channel of a Slack workspace; `base_url` is Slack's own unless a proxy of the house stands before it."""

    channel: str
    token_env: str
    base_url: str = SLACK_ADDRESS


class NotifierSettings(_Settings):
    """What `notifiers.toml` may say; nothing of it need be there: the local outbox is always written."""

    roles: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    email: EmailSettings | None = None
    webhook: dict[str, WebhookSettings] = Field(default_factory=dict)
    slack: SlackSettings | None = None


def read_settings(path: Path) -> NotifierSettings:
    """The settings of a home; empty where there is no file. Raises NotifierError with the file and the field."""
    if not path.exists():
        return NotifierSettings()
    try:
        settings = NotifierSettings.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise NotifierError(f"{path} is not valid TOML: {error}; mend that line") from error
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise NotifierError(f"{path}: {where}: {fault['msg']}; see the head of resources/notifiers.py") from error
    if settings.email and (missing := [role for role in TOLD if not settings.roles.get(role)]):
        raise NotifierError(f"{path}: [email] needs addresses of {', '.join(missing)} under [roles]")
    for name, address in _addresses(settings):
        parts = urlsplit(address)
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))):
            raise NotifierError(f"{path}: {name} needs an https:// address; http:// is for this machine alone")
    return settings


def configured_hosts(path: Path) -> tuple[str, ...]:
    """The hosts that the settings name, in alphabetical order: the only ones that a notice may be sent to."""
    settings = read_settings(path)
    hosts = {str(urlsplit(address).hostname) for _, address in _addresses(settings)}
    return tuple(sorted(hosts | ({settings.email.host} if settings.email else set())))


def notifiers_of(settings: NotifierSettings) -> list[Notifier]:
    """The channels that are configured."""
    named = [(f"{role}.{n}", address) for role in TOLD for n, address in enumerate(settings.roles.get(role, ()), 1)]
    # Who holds both roles is told once, in the first.
    to = {address: label for label, address in reversed(named)}
    return [
        *([Email(label, settings.email, address) for address, label in to.items()] if settings.email else []),
        *(Webhook(name, webhook) for name, webhook in settings.webhook.items()),
        *([Slack(settings.slack)] if settings.slack else []),
    ]


@dataclass(frozen=True, slots=True)
class Email:
    """Mail to one person by SMTP (RFC 5321), over TLS where it is offered (RFC 3207); a password goes over TLS alone.

    Each address is a channel of its own, so that one that is refused brings nobody else the same mail twice.
    """

    label: str
    settings: EmailSettings
    to: str

    @property
    def name(self) -> str:
        """The channel."""
        return f"email.{self.label}"

    def send(self, notice: Notice) -> None:
        """Send one message; raises NotifierError where the server did not take it."""
        import smtplib
        import ssl
        from email.message import EmailMessage
        from email.policy import SMTP

        # A folded subject is shown with a gap by some readers; lines may have 998 characters.
        message = EmailMessage(SMTP.clone(max_line_length=300))
        message["Subject"] = notice.subject()
        message["From"] = self.settings.sender
        message["To"] = self.to
        message["Message-ID"] = f"<{notice.name}@clinical-assets.invalid>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(notice.text())
        password = _secret(self.settings.password_env) if self.settings.password_env else ""
        try:
            with smtplib.SMTP(self.settings.host, self.settings.port, timeout=TIMEOUT_SECONDS) as server:
                server.ehlo()
                secure = server.has_extn("starttls")
                if secure:
                    server.starttls(context=ssl.create_default_context())
                    server.ehlo()
                if password:
                    if not secure:
                        raise NotifierError(
                            f"{self.name}: {self.settings.host} offers no TLS, so the password is not sent"
                        )
                    server.login(self.settings.user or self.settings.sender, password)
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise NotifierError(
                f"{self.name}: {self.settings.host}:{self.settings.port}: {type(error).__name__}"
            ) from error


@dataclass(frozen=True, slots=True)
class Webhook:
    """A POST of JSON to one address; redirections are not followed, and no proxy of the environment is used."""

    label: str
    settings: WebhookSettings

    @property
    def name(self) -> str:
        """The channel."""
        return f"webhook.{self.label}"

    def send(self, notice: Notice) -> None:
        """Post the notice's fields; raises NotifierError for any answer but 2xx."""
        from http.client import HTTPConnection, HTTPException, HTTPSConnection

        parts = urlsplit(self.settings.url)
        connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.name}
        if self.settings.token_env:
            headers["Authorization"] = f"Bearer {_secret(self.settings.token_env)}"
        connection = connect(str(parts.hostname), parts.port, timeout=TIMEOUT_SECONDS)
        try:
            where = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", where, json.dumps(notice.fields()), headers)
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            raise NotifierError(f"{self.name}: {parts.hostname}: {type(error).__name__}") from error
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise NotifierError(f"{self.name}: {parts.hostname} answered {status}")


@dataclass(frozen=True, slots=True)
class Slack:
    """A message to a channel of Slack, through dagster-slack."""

    settings: SlackSettings

    @property
    def name(self) -> str:
        """The channel."""
        return "slack"

    def send(self, notice: Notice) -> None:
        """Post the notice's text; raises NotifierError where Slack did not take it."""
        from dagster_slack import SlackResource
        from slack_sdk.errors import SlackClientError

        client = SlackResource(token=_secret(self.settings.token_env)).get_client()
        client.base_url = self.settings.base_url
        client.timeout = int(TIMEOUT_SECONDS)
        try:
            client.chat_postMessage(channel=self.settings.channel, text=f"*{notice.subject()}*\n{notice.text()}")
        except (OSError, SlackClientError) as error:
            raise NotifierError(f"slack: {type(error).__name__}") from error


def _addresses(settings: NotifierSettings) -> list[tuple[str, str]]:
    addresses = [(f"webhook.{name}.url", webhook.url) for name, webhook in settings.webhook.items()]
    return addresses + ([("slack.base_url", settings.slack.base_url)] if settings.slack else [])


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _secret(variable: str) -> str:
    if not (value := os.environ.get(variable)):
        raise NotifierError(f"the environment variable {variable} is not set, and notifiers.toml names it")
    return value
