import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from told_people import free_port, mail_server, notice, web_server

from clinical_assets.resources.notifiers import (
    NotifierError,
    NotifierSettings,
    configured_hosts,
    notifiers_of,
    read_settings,
)

ROLES = '[roles]\non_call = ["on-call@hospital.example"]\nclinical_lead = ["lead@hospital.example"]\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "notifiers.toml"
    path.write_text(text)
    return path


def settings_for_mail(folder: Path, port: int, more: str = "") -> NotifierSettings:
    text = f'{ROLES}[email]\nhost = "127.0.0.1"\nport = {port}\nsender = "clinical@hospital.example"\n{more}'
    return read_settings(written(folder, text))


def test_on_call_and_clinical_lead_get_a_mail_each(tmp_path: Path) -> None:
    with mail_server() as server:
        for email in notifiers_of(settings_for_mail(tmp_path, server.port)):
            email.send(notice())
    to = [to for [to], _ in server.messages]
    assert sorted(to) == ["lead@hospital.example", "on-call@hospital.example"]
    _, message = server.messages[0]
    assert message["Subject"] == notice().subject()
    assert message.get_content().replace("\r\n", "\n") == notice().text()
    assert notice().name in message["Message-ID"]


def test_an_address_that_the_server_refuses_is_told_and_keeps_the_mail_from_nobody_else(tmp_path: Path) -> None:
    with mail_server() as server:
        server.refused = "on-call@hospital.example"
        channels = {email.name: email for email in notifiers_of(settings_for_mail(tmp_path, server.port))}
        on_call, lead = channels["email.on_call.1"], channels["email.clinical_lead.1"]
        with pytest.raises(NotifierError, match=r"email\.on_call\.1: .*SMTPRecipientsRefused"):
            on_call.send(notice())
        lead.send(notice())
    assert [to for to, _ in server.messages] == [["lead@hospital.example"]]


def test_a_mail_server_that_is_down_is_told(tmp_path: Path) -> None:
    email, _ = notifiers_of(settings_for_mail(tmp_path, free_port()))
    with pytest.raises(NotifierError, match=r"127\.0\.0\.1:\d+: ConnectionRefusedError"):
        email.send(notice())


def test_a_password_never_goes_over_a_line_in_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_SMTP_PASSWORD", "secret")
    with mail_server() as server:
        email, _ = notifiers_of(settings_for_mail(tmp_path, server.port, 'password_env = "CLINICAL_SMTP_PASSWORD"\n'))
        with pytest.raises(NotifierError, match="offers no TLS, so the password is not sent"):
            email.send(notice())
    assert server.messages == []


def settings_for_web(folder: Path, port: int, more: str = "") -> NotifierSettings:
    return read_settings(written(folder, f'[webhook.pager]\nurl = "http://127.0.0.1:{port}/hook?team=ml"\n{more}'))


def test_a_webhook_is_posted_the_fields_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_PAGER_TOKEN", "t0ken")
    with web_server() as server:
        [webhook] = notifiers_of(settings_for_web(tmp_path, server.port, 'token_env = "CLINICAL_PAGER_TOKEN"\n'))
        webhook.send(notice())
    [(path, headers, body)] = server.posts
    assert path == "/hook?team=ml"
    assert json.loads(body) == notice().fields()
    assert headers["authorization"] == "Bearer t0ken"
    assert headers["idempotency-key"] == notice().name


@pytest.mark.parametrize("status", [301, 404, 500])
def test_any_answer_but_success_is_a_failure_and_no_redirection_is_followed(tmp_path: Path, status: int) -> None:
    with web_server() as elsewhere, web_server() as server:
        server.status, server.location = status, f"http://127.0.0.1:{elsewhere.port}/"
        [webhook] = notifiers_of(settings_for_web(tmp_path, server.port))
        with pytest.raises(NotifierError, match=f"answered {status}"):
            webhook.send(notice())
        assert elsewhere.posts == []


def test_a_webhook_uses_no_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server() as proxy, web_server() as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        [webhook] = notifiers_of(settings_for_web(tmp_path, server.port))
        webhook.send(notice())
        assert (len(proxy.posts), len(server.posts)) == (0, 1)


def settings_for_slack(folder: Path, port: int) -> NotifierSettings:
    text = f'[slack]\nchannel = "#on-call"\ntoken_env = "SLACK"\nbase_url = "http://127.0.0.1:{port}/api/"\n'
    return read_settings(written(folder, text))


def test_slack_is_told_through_dagster_slack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK", "xoxb-1")
    with web_server() as server:
        server.answer = {"ok": True}
        [slack] = notifiers_of(settings_for_slack(tmp_path, server.port))
        slack.send(notice())
    [(path, headers, body)] = server.posts
    assert path == "/api/chat.postMessage"
    assert headers["authorization"] == "Bearer xoxb-1"
    said = json.loads(body) if headers["content-type"].startswith("application/json") else parse_qs(body)
    assert "#on-call" in str(said["channel"])
    assert notice().subject() in str(said["text"])


def test_slack_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK", "xoxb-1")
    with web_server() as server:
        server.answer = {"ok": False, "error": "channel_not_found"}
        [slack] = notifiers_of(settings_for_slack(tmp_path, server.port))
        with pytest.raises(NotifierError, match="slack: SlackApiError"):
            slack.send(notice())


def test_a_secret_that_is_not_in_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLACK", raising=False)
    [slack] = notifiers_of(settings_for_slack(tmp_path, free_port()))
    with pytest.raises(NotifierError, match="the environment variable SLACK is not set"):
        slack.send(notice())


def test_without_a_file_nobody_beyond_the_outbox_is_told(tmp_path: Path) -> None:
    assert notifiers_of(read_settings(tmp_path / "notifiers.toml")) == []
    assert configured_hosts(tmp_path / "notifiers.toml") == ()


def test_the_hosts_that_may_be_spoken_to_are_those_configured(tmp_path: Path) -> None:
    text = (
        f'{ROLES}[email]\nhost = "smtp.hospital.example"\nsender = "a@hospital.example"\n'
        '[webhook.pager]\nurl = "https://pager.hospital.example:8443/x"\n[slack]\nchannel = "#x"\ntoken_env = "SLACK"\n'
    )
    hosts = configured_hosts(written(tmp_path, text))
    assert hosts == ("pager.hospital.example", "slack.com", "smtp.hospital.example")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[email\n", "not valid TOML"),
        ('[email]\nhost = "x"\nsender = "y"\npassword = "hunter2"\n', "email.password: Extra inputs"),
        ('[email]\nhost = "x"\nsender = "y"\n', "addresses of on_call, clinical_lead under"),
        ('[webhook.pager]\nurl = "http://pager.hospital.example/"\n', "webhook.pager.url needs an https:// address"),
        ('[webhook.pager]\nurl = "pager"\n', "webhook.pager.url needs an https:// address"),
        ('[sms]\nnumber = "1"\n', "sms: Extra inputs"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_with_file_and_field(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(NotifierError) as refused:
        read_settings(written(tmp_path, text))
    assert told in str(refused.value)
    assert str(tmp_path / "notifiers.toml") in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_who_holds_both_roles_is_told_once(tmp_path: Path) -> None:
    text = ROLES.replace("lead@", "on-call@") + '[email]\nhost = "x.example"\nsender = "a@x.example"\n'
    assert [email.name for email in notifiers_of(read_settings(written(tmp_path, text)))] == ["email.on_call.1"]
