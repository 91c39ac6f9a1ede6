"""`dispatchd hub github setup` and `check` against a GitHub on loopback: what they make, and each trouble in one line."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from dispatchd.hub.config.load import load
from dispatchd.hub.github.app.check import check_app
from dispatchd.protocol.finding import Finding, Level
from support.cli import Done, dispatchd
from support.github import app_key, new_key, prism
from support.github_app import (
    APP_ID,
    CODE,
    REPOSITORY,
    WEBHOOK_SECRET,
    GithubApp,
    delivery,
    github_app,
)

RULES = f"""
[[github.rules]]
name = "tests"
workflow = "ci"
repositories = ["{REPOSITORY}"]
events = ["pull_request", "push"]
"""

BEFORE = f"""
[github]
public_url = "https://hub.example"
api_url = "URL"
{RULES}
"""

APP = f"""
[github]
app_id = {APP_ID}
private_key_file = "github-app.pem"
webhook_secret_files = ["github-webhook-secret"]
public_url = "https://hub.example"
api_url = "URL"
{RULES}
"""


@pytest.fixture(scope="module")
def key() -> str:
    return app_key()


@pytest.fixture
def github(key: str) -> Iterator[GithubApp]:
    with github_app(key) as found:
        yield found


@define
class Place:
    """A folder with a hub.toml."""

    folder: Path
    github: GithubApp

    def configure(self, text: str) -> None:
        (self.folder / "hub.toml").write_text(text.replace("URL", self.github.url))

    def with_app(self, text: str = APP) -> None:
        self.configure(text)
        for name, secret in (
            ("github-app.pem", self.github.key),
            ("github-webhook-secret", WEBHOOK_SECRET),
            ("github-token", self.github.token),
        ):
            (self.folder / name).write_text(secret)
            (self.folder / name).chmod(0o600)

    def say(self, *words: str) -> Done:
        unset = {each: None for each in os.environ if each.startswith("DISPATCHD")}
        done = dispatchd("hub", "github", *words, env=unset, cwd=self.folder)
        told = done.stdout + done.stderr
        assert "Traceback" not in told, told
        for secret in (self.github.key.splitlines()[1], WEBHOOK_SECRET):
            assert secret not in told
        assert "client-secret-of-the-app" not in told
        assert self.github.token not in told
        return done

    async def findings(self) -> list[Finding]:
        settings = load(self.folder / "hub.toml").github
        assert settings is not None
        return [each async for each in check_app(settings, now=time.time)]


@pytest.fixture
def place(tmp_path: Path, github: GithubApp) -> Place:
    return Place(tmp_path, github)


def test_an_app_is_made_from_the_rules_alone(place: Place) -> None:
    place.configure(BEFORE)
    found = json.loads(place.say("setup", "--json", "--organization", "octo").stdout)

    named = json.loads(place.say("setup", "--json", "--name", "our-ci").stdout)

    assert (
        found["post_to"] == f"{place.github.url}/organizations/octo/settings/apps/new"
    )
    document = found["manifest"]
    assert document["default_permissions"] == place.github.app["permissions"]
    assert set(document["default_events"]) == {
        *place.github.app["events"],
        *("check_run", "check_suite"),
    }
    assert document["name"] == "dispatchd-octo"
    assert named["manifest"]["name"] == "our-ci"
    assert place.github.requests == []


@pytest.mark.parametrize(
    ("repositories", "organization", "name"),
    [
        (["Acme/a", "acme/b"], "", "dispatchd-acme"),
        (["acme/a", "octo/b"], "", "dispatchd"),
        (["acme-*/a"], "", "dispatchd"),
        (["acme/a"], "octo", "dispatchd-octo"),
        (["acme/a"], "a" * 23 + "-" + "b" * 15, "dispatchd-" + "a" * 23),
    ],
)
def test_an_app_is_named_after_its_owner(
    place: Place, repositories: list[str], organization: str, name: str
) -> None:
    place.configure(BEFORE.replace(f'["{REPOSITORY}"]', json.dumps(repositories)))

    found = place.say("setup", "--json", "--organization", organization)

    assert json.loads(found.stdout)["manifest"]["name"] == name


def test_the_page_posts_the_manifest(place: Place) -> None:
    place.configure(BEFORE)

    done = place.say("setup", "--html", "app.html")
    again = place.say("setup", "--html", "app.html")

    text = (place.folder / "app.html").read_text()
    assert f'action="{place.github.url}/settings/apps/new"' in text
    assert "merge" not in text
    assert "app.html in a browser" in done.stdout
    assert again.returncode == os.EX_USAGE
    assert "app.html: it is there already" in again.stderr


@pytest.mark.parametrize("given", [CODE, f"http://127.0.0.1:47474/?code={CODE}"])
def test_a_code_becomes_a_key_secrets_and_a_drop_in_and_is_checked(
    place: Place, given: str
) -> None:
    place.configure(BEFORE)
    before = (place.folder / "hub.toml").read_bytes()

    done = place.say("setup", "--code", given)

    assert done.returncode == 0, done.stderr
    assert CODE not in done.stdout
    assert "https://github.com/apps/our-ci/installations/new" in done.stdout
    assert "ok      installations 7 (octo), selected repositories" in done.stdout
    files = {
        "github-app.pem": place.github.key.strip(),
        "github-webhook-secret": WEBHOOK_SECRET,
        "github-client-secret": "client-secret-of-the-app",
    }
    for name, text in files.items():
        file = place.folder / name
        assert file.read_text().strip() == text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    drop_in = place.folder / "hub.toml.d" / "50-github-app.toml"
    assert stat.S_IMODE(drop_in.stat().st_mode) == 0o600
    assert (place.folder / "hub.toml").read_bytes() == before
    settings = load(place.folder / "hub.toml").github
    assert settings is not None
    assert settings.app_id == APP_ID
    assert settings.private_key_file == place.folder / "github-app.pem"
    assert settings.webhook_secret_files == (place.folder / "github-webhook-secret",)
    assert place.say("check").returncode == 0
    login = done.stdout.partition("[login.github]")[2].partition("\n\n")[0]
    place.configure(f"{BEFORE}\n[login.github]{login}")
    people = load(place.folder / "hub.toml").login
    assert people is not None
    assert people.github is not None
    assert people.github.client_id == "Iv1.8a61f9b3a7aba766"
    assert people.github.client_secret_file == place.folder / "github-client-secret"


def test_what_is_made_is_told_as_json_with_the_check(place: Place) -> None:
    place.configure(BEFORE)
    suspended(place)

    done = place.say("setup", "--json", "--code", CODE)

    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["app_id"] == APP_ID
    assert Path(told["drop_in"]).is_file()
    levels = {each["check"]: each["level"] for each in told["check"]}
    assert (levels["app"], levels["installations"]) == ("ok", "warning")


def test_a_key_that_is_there_is_never_lost(place: Place) -> None:
    place.configure(BEFORE)
    for name in ("github-app.pem", "github-webhook-secret", "github-client-secret"):
        (place.folder / name).write_text("precious")

        for words in (("--code", CODE), ("--timeout", "1s")):
            done = place.say("setup", *words)

            assert done.returncode == os.EX_USAGE
            [line] = done.stderr.splitlines()
            assert f"{name} is there already, and would be lost" in line
        assert (place.folder / name).read_text() == "precious"
        (place.folder / name).unlink()
        assert {each.name for each in place.folder.iterdir()} == {"hub.toml"}
    # The code is still good, because it was not spent.
    assert place.github.requests == []
    assert place.say("setup", "--code", CODE).returncode == 0


def test_a_code_that_does_not_count_leaves_nothing(place: Place) -> None:
    place.configure(BEFORE)
    path = f"/app-manifests/{CODE}/conversions"

    unknown = place.say("setup", "--code", "x" * 40)
    place.github.faults[path] = (503, f'{{"message": "no {CODE} today"}}')
    away = place.say("setup", "--code", CODE)
    place.github.faults[path] = (201, "{}")
    empty = place.say("setup", "--code", CODE)

    assert (unknown.returncode, away.returncode) == (os.EX_USAGE, os.EX_UNAVAILABLE)
    assert "it counts once, and for an hour" in unknown.stderr
    assert "503" in away.stderr
    assert CODE not in away.stderr
    assert empty.returncode == os.EX_UNAVAILABLE
    assert "has no App in it" in empty.stderr
    for done in (unknown, away, empty):
        assert len(done.stderr.splitlines()) == 1
    assert {each.name for each in place.folder.iterdir()} == {"hub.toml"}


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("hub.toml", "app_id = 1"),
        ("hub.toml", 'token_file = "t"'),
        ("hub.toml.d/50-github-app.toml", "app_id = 1"),
        ("hub.toml.d/a.toml", "app_id = 1"),
        ("hub.toml.d/50-github-app.toml", ""),
    ],
)
def test_a_hub_that_has_an_app_or_a_token_gets_no_other(
    place: Place, file: str, setting: str
) -> None:
    place.configure(BEFORE)
    changed = place.folder / file
    changed.parent.mkdir(exist_ok=True)
    before = changed.read_text() if changed.exists() else "[github]\n"
    text = before.replace("[github]\n", f"[github]\n{setting}\n")
    changed.write_text(text)

    for words in ((), ("--code", CODE)):
        done = place.say("setup", *words)

        assert done.returncode == os.EX_USAGE
        [line] = done.stderr.splitlines()
        assert f"cannot make another App: {changed}" in line
    assert changed.read_text() == text
    assert place.github.requests == []
    assert not (place.folder / "github-app.pem").exists()


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", os.EX_CONFIG, "github: must be there, with at least one rule"),
        ("[github]\n", os.EX_CONFIG, "github.rules: must be there"),
        ("[github]\nrules = 5\n", os.EX_CONFIG, "github.rules"),
        (f"[github]\n{RULES}", os.EX_USAGE, "--webhook-url"),
    ],
)
def test_what_is_missing_for_a_manifest_is_one_line(
    place: Place, text: str, code: int, words: str
) -> None:
    place.configure(text)

    done = place.say("setup", "--json")

    assert done.returncode == code
    [line] = done.stderr.splitlines()
    assert words in line


def test_a_good_app_is_ok_in_every_line(place: Place) -> None:
    place.with_app()

    done = place.say("check")
    found = json.loads(place.say("check", "--json").stdout)

    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok") for line in lines), done.stdout
    assert {each["check"] for each in found} == {
        *("config", "secrets", "api", "clock", "app", "permissions", "events"),
        *("webhook", "installations", "repositories", "deliveries", "rules"),
    }
    assert all(method == "GET" for method, _, _ in place.github.requests)


def gone(place: Place) -> None:
    place.github.faults["/app"] = (404, '{"message": "Integration not found"}')


def another_key(place: Place) -> None:
    (place.folder / "github-app.pem").write_text(new_key())


def no_key(place: Place) -> None:
    (place.folder / "github-app.pem").unlink()


def no_pem(place: Place) -> None:
    (place.folder / "github-app.pem").write_text("secret-no-pem")


def open_key(place: Place) -> None:
    (place.folder / "github-app.pem").chmod(0o644)


def no_secret(place: Place) -> None:
    (place.folder / "github-webhook-secret").unlink()


def empty_secret(place: Place) -> None:
    (place.folder / "github-webhook-secret").write_text("\n")


def fast_clock(place: Place) -> None:
    place.github.skew_s = -3600


def slow_clock(place: Place) -> None:
    place.github.skew_s = 45


def no_checks(place: Place) -> None:
    place.github.app["permissions"]["checks"] = "read"


def statuses_alone(place: Place) -> None:
    del place.github.app["permissions"]["checks"]
    place.github.app["permissions"]["statuses"] = "write"


def no_comments(place: Place) -> None:
    place.github.app["events"].remove("issue_comment")


def elsewhere(place: Place) -> None:
    place.github.hook["url"] = "https://smee.io/abc"


def no_hook(place: Place) -> None:
    place.github.faults["/app/hook/config"] = (404, '{"message": "Not Found"}')


def no_hook_secret(place: Place) -> None:
    del place.github.hook["secret"]


def insecure(place: Place) -> None:
    place.github.hook["insecure_ssl"] = "1"


def not_installed(place: Place) -> None:
    place.github.installations = []


def suspended(place: Place) -> None:
    place.github.installations[0]["suspended_at"] = "2026-11-01T00:00:00Z"


def not_accepted(place: Place) -> None:
    place.github.installations[0]["permissions"]["pull_requests"] = "read"


def not_covered(place: Place) -> None:
    place.github.repositories = {}


def unreached(place: Place) -> None:
    place.github.deliveries = [delivery(3, 0), delivery(2, 502), delivery(1)]


def other_secret(place: Place) -> None:
    place.github.deliveries = [delivery(1, 401)]


def silent(place: Place) -> None:
    place.github.deliveries = []


def no_deliveries(place: Place) -> None:
    place.github.faults["/app/hook/deliveries"] = (500, "oops")


def limited(place: Place) -> None:
    place.github.faults["/app"] = (429, '{"message": "rate limit"}')


def proxy_page(place: Place) -> None:
    place.github.faults["/app"] = (200, "<html>")


def nobody(place: Place) -> None:
    place.configure(APP.replace("URL", "http://127.0.0.1:9"))


def typo(place: Place) -> None:
    place.configure(APP.replace('"push"', '"pushes"'))


def everybody(place: Place) -> None:
    place.configure(APP.replace(REPOSITORY, "*"))


def other_owner(place: Place) -> None:
    place.configure(APP.replace(REPOSITORY, "acme/*"))


def other_installation(place: Place) -> None:
    place.configure(APP.replace("app_id", "installations = [8]\napp_id"))


def readers(place: Place) -> None:
    place.configure(
        APP.replace(
            'events = ["pull_request", "push"]',
            'command = "docs"\npermission = "read"',
        )
    )


TROUBLES: list[tuple[Callable[[Place], None], Level, str, str]] = [
    (gone, Level.FAILED, "app", "GitHub has no App 4711: it was removed"),
    (another_key, Level.FAILED, "app", "the private key is none of the App 4711"),
    (no_key, Level.FAILED, "credentials", "github-app.pem: must be a readable file"),
    (no_pem, Level.FAILED, "credentials", "must be a private key in PEM"),
    (open_key, Level.WARNING, "secrets", "open to other users: chmod 600"),
    (no_secret, Level.FAILED, "secrets", "webhook_secret_files[0]: must name a read"),
    (empty_secret, Level.FAILED, "secrets", "must name a file that isn't empty"),
    (fast_clock, Level.WARNING, "clock", "ahead of GitHub's: set it"),
    (slow_clock, Level.WARNING, "clock", "behind GitHub's: set it"),
    (
        no_checks,
        Level.FAILED,
        "permissions",
        "checks: write is missing (for checks, the buttons of checks): give it at URL/organizations/octo/settings/apps/our-ci/permissions",
    ),
    (
        statuses_alone,
        Level.WARNING,
        "permissions",
        "until then there are commit statuses, without buttons",
    ),
    (
        no_comments,
        Level.FAILED,
        "events",
        "issue_comment is not subscribed to (for commands in comments)",
    ),
    (
        elsewhere,
        Level.FAILED,
        "webhook",
        "it leads to https://smee.io/abc, and not to https://hub.example/webhooks/github",
    ),
    (no_hook, Level.FAILED, "webhook", "it has no address"),
    (no_hook_secret, Level.FAILED, "webhook", "it has no secret"),
    (insecure, Level.WARNING, "webhook", "doesn't verify the hub's certificate"),
    (
        not_installed,
        Level.FAILED,
        "installations",
        "nobody has installed the App: https://github.com/apps/our-ci/installations/new",
    ),
    (suspended, Level.WARNING, "installations", "7 (octo) is suspended"),
    (
        not_accepted,
        Level.FAILED,
        "installations",
        "7 (octo) has not accepted pull_requests: write yet: an owner has to at https://github.com/organizations/octo/settings/installations/7",
    ),
    (
        not_covered,
        Level.FAILED,
        "repositories",
        "octo/hello: no installation of the App covers it, or there is no such repository (rule tests)",
    ),
    (
        unreached,
        Level.WARNING,
        "deliveries",
        "2 of the newest 3 were not taken: 0 push guid-3 (nobody answered); 502 push guid-2",
    ),
    (other_secret, Level.WARNING, "deliveries", "webhook_secret_files doesn't have"),
    (silent, Level.WARNING, "deliveries", "none of the last 3 days: is the webhook"),
    (no_deliveries, Level.FAILED, "deliveries", "cannot list deliveries: status 500"),
    (limited, Level.FAILED, "api", "status 429"),
    (proxy_page, Level.FAILED, "api", "where JSON was expected"),
    (nobody, Level.FAILED, "api", "cannot read the App"),
    (typo, Level.WARNING, "rules", "rule tests: this release knows no event pushes"),
    (everybody, Level.WARNING, "rules", "rule tests: * is for every owner"),
    (
        other_owner,
        Level.WARNING,
        "installations",
        "rule tests: nobody whom acme/* means has installed the App",
    ),
    (
        other_installation,
        Level.FAILED,
        "repositories",
        "its installation 7 is none of github.installations",
    ),
    (readers, Level.WARNING, "rules", "in a public repository everybody has read"),
]


@pytest.mark.parametrize(
    ("make", "level", "check", "words"),
    TROUBLES,
    ids=[make.__name__ for make, *_ in TROUBLES],
)
async def test_each_trouble_is_named(
    place: Place, make: Callable[[Place], None], level: Level, check: str, words: str
) -> None:
    place.with_app()
    make(place)

    found = await place.findings()

    bad = [each for each in found if each.level is not Level.OK]
    named = [
        each
        for each in bad
        if each.check == check
        and each.level is level
        and words.replace("URL", place.github.url) in each.message
    ]
    assert len(named) == 1, bad
    # What follows from it is said too, but nothing that has to do with something else.
    assert len(bad) <= (3 if make is other_installation else 2), bad
    told = "\n".join(each.message for each in found)
    assert "\n" not in named[0].message
    assert "PRIVATE KEY" not in told
    assert "secret-no-pem" not in told
    assert WEBHOOK_SECRET not in told


def test_the_worst_line_is_the_exit_code(place: Place) -> None:
    place.with_app()
    suspended(place)
    warned = place.say("check")
    not_covered(place)
    failed = place.say("check")
    place.configure("")
    unusable = place.say("check")

    assert (warned.returncode, failed.returncode, unusable.returncode) == (1, 2, 2)
    assert "warning installations 7 (octo)" in warned.stdout
    assert unusable.stdout.startswith("failed  config")


async def test_what_is_more_than_needed_is_a_note(place: Place) -> None:
    place.with_app()
    place.github.app["permissions"]["administration"] = "write"
    place.github.app["events"].append("star")

    found = await place.findings()

    assert max(each.level for each in found) is Level.OK
    words = [each.message for each in found]
    assert "more than needed, which can be taken away: administration: write" in words
    assert "more than needed, which only cost deliveries: star" in words


async def test_statuses_are_not_too_much_where_they_stand_in_for_checks(
    place: Place,
) -> None:
    place.with_app()
    statuses_alone(place)
    instead = await place.findings()
    place.github.app["permissions"]["checks"] = "write"
    beside = await place.findings()

    assert not [each for each in instead if "more than needed" in each.message]
    assert [each for each in beside if "taken away: statuses: write" in each.message]


async def test_a_delivery_that_was_sent_again_has_succeeded(place: Place) -> None:
    place.with_app()
    place.github.deliveries = [delivery(2, guid="a"), delivery(1, 502, guid="a")]

    found = await place.findings()

    assert max(each.level for each in found) is Level.OK


async def test_a_hub_that_polls_needs_an_address_and_nobody_behind_it(
    place: Place,
) -> None:
    place.with_app(APP.replace("app_id", 'ingest = "poll"\napp_id'))
    elsewhere(place)
    unreached(place)
    no_hook_secret(place)

    good = await place.findings()
    place.github.hook["url"] = ""
    bad = await place.findings()

    assert max(each.level for each in good) is Level.OK, good
    [failed] = [each for each in bad if each.level is not Level.OK]
    assert "so there are no deliveries" in failed.message


async def test_a_token_says_what_it_cannot_do(place: Place) -> None:
    with_token = APP.replace(
        f'app_id = {APP_ID}\nprivate_key_file = "github-app.pem"',
        'token_file = "github-token"',
    )
    place.with_app(with_token)
    good = await place.findings()
    place.github.faults["/rate_limit"] = (404, '{"message": "not enabled"}')
    unlimited = await place.findings()
    place.github.faults["/rate_limit"] = (401, f'{{"message": "{place.github.token}"}}')
    bad = await place.findings()

    [warning] = [each for each in good if each.level is not Level.OK]
    assert (
        "no checks and their buttons, no tokens for runs, no polling" in warning.message
    )
    assert max(each.level for each in unlimited) is Level.WARNING
    [failed] = [each for each in bad if each.level is Level.FAILED]
    assert "401" in failed.message
    assert place.github.token not in failed.message


async def test_a_merge_queue_without_a_rule_is_a_hint(place: Place) -> None:
    place.with_app()
    hinted = await place.findings()
    place.configure(APP.replace('"push"', '"push", "merge_group"'))
    place.github.app["permissions"]["merge_queues"] = "read"
    quiet = await place.findings()

    def about(found: list[Finding]) -> list[Finding]:
        return [each for each in found if "merge_group: where" in each.message]

    [hint] = about(hinted)
    assert hint.level is Level.OK
    assert about(quiet) == []


@pytest.mark.host
async def test_the_questions_are_those_of_githubs_own_description(
    place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "prism"
    folder.mkdir()
    with prism(folder, "api.github.com", upstream=place.github.url) as url:
        place.with_app(APP.replace("URL", url))

        found: list[Any] = await place.findings()

    assert max(each.level for each in found) is Level.OK, found
    [log] = folder.glob("*.log")
    text = log.read_text()
    assert "/app/hook/deliveries" in text
    assert "Violation: request" not in text
