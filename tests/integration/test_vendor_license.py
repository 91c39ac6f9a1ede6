"""A vendor's side of licenses: a key, a license signed with it, an endpoint that exchanges it, a machine that takes it."""

import json
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from typing_extensions import override

import endpoint as rules
from dispatchd.cli.main import main
from licenses import Licenses
from support.cli import command, dispatchd
from support.daemon import write_config
from support.daemon_process import running_daemon
from support.reference import Reference, reference


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "vendor.key"
    assert dispatchd("license", "keygen", str(file)).returncode == 0
    return file


def issued(key: Path, *words: str) -> str:
    done = dispatchd("license", "issue", "--key-file", str(key), *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def server(tmp_path: Path, key: Path) -> Iterator[Reference]:
    with reference(tmp_path / "endpoint") as here:
        here.vendor.licenses = Licenses(here.vendor.endpoint, key)
        yield here


def machine(folder: Path, url: str, public_key: Path) -> Path:
    """Configure a machine whose identity comes from a license."""
    config = write_config(folder, url, {"it": ["/bin/true"]})
    own = ("license_id", "server_id", "secret_file")
    lines = [
        line for line in config.read_text().splitlines() if not line.startswith(own)
    ]
    table = f'[license]\npublic_keys = ["{public_key}"]\n'
    config.write_text("\n".join([*lines, table]))
    return config


def test_the_private_key_is_the_owners_alone_and_is_never_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / "vendor.key"
    done = dispatchd("license", "keygen", str(file))
    again = dispatchd("license", "keygen", str(file))
    private = file.read_text().splitlines()[1]

    assert file.stat().st_mode & 0o777 == 0o600
    assert private not in done.stdout + done.stderr + again.stderr
    assert "PUBLIC" in Path(f"{file}.pub").read_text()
    assert again.returncode == 64
    assert file.read_text().splitlines()[1] == private


@pytest.mark.parametrize("name", ["", ".", "..", "/", "here", "here/"])
def test_a_key_needs_the_name_of_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "here").mkdir()

    done = dispatchd("license", "keygen", name, cwd=tmp_path)

    assert (done.returncode, done.stderr.count("\n")) == (64, 1), done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_the_line_for_machines_names_any_file(tmp_path: Path) -> None:
    done = dispatchd("license", "keygen", 'a "key"', cwd=tmp_path)

    table = tomllib.loads(done.stdout.partition("machines:\n")[2])
    assert table == {"license": {"public_keys": ['a "key".pub']}}


def test_a_key_that_others_may_read_signs_nothing(key: Path) -> None:
    key.chmod(0o640)
    done = dispatchd("license", "issue", "--key-file", str(key))
    assert (done.returncode, done.stdout) == (64, "")
    assert "chmod 600" in done.stderr


@pytest.mark.parametrize("content", ["", "text", "public"])
def test_a_file_that_is_no_private_key_is_one_line(key: Path, content: str) -> None:
    public = Path(f"{key}.pub").read_text()
    key.write_text(public if content == "public" else content)
    done = dispatchd("license", "issue", "--key-file", str(key))
    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 1
    assert "no private Ed25519 key" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--id", "a" * 8000),
        ("--plan", "half \udcff"),
        ("--feature", "\udcff"),
        ("--grace-days", "nan"),
        ("--valid", "9000000d"),
        ("--forever", "--valid", "30d"),
        ("-o", "/dev/full"),
        ("-o", "/nowhere/license"),
    ],
)
def test_what_no_machine_would_take_is_not_issued(
    key: Path, words: tuple[str, ...]
) -> None:
    done = dispatchd("license", "issue", "--key-file", str(key), *words)
    assert (done.returncode in {64, 73}, done.stdout) == (True, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_public_key_without_its_private_one_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "taken.pub").touch()
    assert dispatchd("license", "keygen", str(tmp_path / "taken")).returncode == 64
    assert [each.name for each in tmp_path.iterdir()] == ["taken.pub"]


async def test_a_daemon_takes_a_license_that_was_issued(
    tmp_path: Path, key: Path, server: Reference
) -> None:
    license_file = tmp_path / "acme.license"
    words = ("--id", "lic-acme", "--plan", "team", "-o", str(license_file))
    done = dispatchd("license", "issue", "--key-file", str(key), *words)
    assert done.returncode == 0, done.stderr
    assert license_file.stat().st_mode & 0o777 == 0o600
    assert license_file.read_text().strip() not in done.stdout
    config = machine(tmp_path / "machine", server.url, Path(f"{key}.pub"))
    at = ("--config", str(config))

    activated = await command("activate", *at, "--key-file", str(license_file))
    assert activated.returncode == 0, activated.stderr
    assert "lic-acme, plan team" in activated.stdout
    async with running_daemon(config) as daemon:
        server.vendor.submit({"id": "j", "dag_name": "it"})
        await daemon.until_logged("job_finish_acknowledged", job_id="j")
        shown = json.loads((await command("license", *at, "--json")).stdout)
    assert (shown["license_id"], shown["good"]) == ("lic-acme", True)
    result = json.loads(server.vendor.endpoint.job("j")["result"])
    assert result["result_status"] == "succeeded"


async def test_a_license_of_another_key_or_of_the_past_is_refused(
    tmp_path: Path, key: Path, server: Reference
) -> None:
    other = tmp_path / "other.key"
    dispatchd("license", "keygen", str(other))
    config = machine(tmp_path / "machine", server.url, Path(f"{key}.pub"))
    long_ago = datetime.now(UTC) - timedelta(days=40)
    claims = {"jti": "l", "iat": long_ago, "exp": long_ago + timedelta(days=30)}
    past = jwt.encode(claims, key.read_text(), algorithm="EdDSA")
    unsigned = jwt.encode({"jti": "l", "iat": 1}, "x" * 32, algorithm="HS256")
    bound = jwt.encode(
        {"jti": "l", "iat": 1, "activation_id": "a"}, key.read_text(), algorithm="EdDSA"
    )
    for text in (issued(other), past, unsigned, bound, "made up"):
        done = await command("activate", "--config", str(config), text=text)
        assert done.returncode == 69, done.stdout
        assert text not in done.stderr


def test_a_license_proves_itself_where_no_endpoint_is(
    tmp_path: Path, key: Path
) -> None:
    config = machine(tmp_path / "machine", "http://127.0.0.1:9", Path(f"{key}.pub"))
    state = tmp_path / "machine" / "state"
    state.mkdir(parents=True)
    (state / "license.jwt").write_text(issued(key, "--id", "lic-acme"))
    shown = json.loads(dispatchd("license", "--config", str(config), "--json").stdout)
    assert (shown["license_id"], shown["validity"]) == ("lic-acme", "valid")
    assert "gives no machine credentials" in shown["blocked_reason"]


def test_rotated_keys_leave_activated_machines_their_licenses(
    tmp_path: Path, key: Path, server: Reference
) -> None:
    body = {"key": issued(key), "server_id": "s", "machine_name": ""}
    _, given = Licenses(server.vendor.endpoint, key).activate(body)
    assert given is not None
    new = tmp_path / "new.key"
    dispatchd("license", "keygen", str(new))
    rotated = Licenses(server.vendor.endpoint, new)
    claims = jwt.decode(given["token"], options={"verify_signature": False})
    proof = {
        "license_id": claims["jti"],
        "server_id": "s",
        "heartbeat_secret": given["heartbeat_secret"],
    }
    _, fresh = rotated.heartbeat(proof)
    assert fresh is not None
    done = dispatchd(
        "license", "inspect", "--public-key", f"{new}.pub", text=fresh["token"]
    )
    assert done.returncode == 0, done.stdout
    with pytest.raises(rules.Refused):
        rotated.activate({**body, "server_id": "other"})


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (("--valid", "30d"), "(in 29 d)", 0),
        (("--forever",), "expires      never", 0),
        (("--valid", "0.001s", "--grace-days", "0"), "expired", 1),
        (("--plan", "team\x1b[2J", "--feature", "a", "--feature", "b"), "a, b", 0),
        (("--warning", "ends soon"), "ends soon", 0),
    ],
)
def test_inspect_explains_a_license_in_words(
    key: Path, words: tuple[str, ...], text: str, code: int
) -> None:
    token = issued(key, *words)
    done = dispatchd("license", "inspect", "--public-key", f"{key}.pub", text=token)
    assert (done.returncode, text in done.stdout) == (code, True), done.stdout
    assert re.search(r"signature +valid", done.stdout)
    assert token not in done.stdout
    assert "\x1b" not in done.stdout
    unchecked = dispatchd("license", "inspect", text=token)
    assert "not checked" in unchecked.stdout


def test_inspect_tells_a_forged_license(tmp_path: Path, key: Path) -> None:
    other = tmp_path / "other.key"
    dispatchd("license", "keygen", str(other))
    token = issued(key)
    done = dispatchd("license", "inspect", "--public-key", f"{other}.pub", text=token)
    assert done.returncode == 1
    assert "INVALID: none of the pinned keys has signed it" in done.stdout


@pytest.mark.parametrize(
    "text", ["", "made up", "a.b.c", "dhub1.x.y.z", "e30.e30.", "x" * 20_000]
)
def test_inspect_of_what_is_no_license_is_one_line(text: str) -> None:
    done = dispatchd("license", "inspect", text=text)
    assert done.returncode == 64
    assert len(done.stderr.splitlines()) == 1
    assert not text or text not in done.stderr


def test_the_table_of_commands_has_the_vendors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["license", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("keygen", "issue", "inspect"))


class RefreshesAnybody(Licenses):
    """Asks for no secret."""

    @override
    def heartbeat(self, body: rules.Json) -> rules.Reply:
        return 200, {"token": self.token({"jti": body["license_id"]}, "s")}


@pytest.mark.parametrize(
    ("kind", "verdict"), [(Licenses, "kept"), (RefreshesAnybody, "broken")]
)
def test_conformance_judges_licenses_of_a_machine_that_it_activates(
    tmp_path: Path, key: Path, server: Reference, kind: type[Licenses], verdict: str
) -> None:
    server.vendor.licenses = kind(server.vendor.endpoint, key)
    (tmp_path / "license").write_text(issued(key))
    done = dispatchd(
        *("conformance", server.url, "--key-file", str(tmp_path / "license")),
        *("--token-file", str(server.token_file), "--json"),
    )
    found = {
        rule["number"]: rule["verdict"] for rule in json.loads(done.stdout)["rules"]
    }
    assert found.pop("1.24") == verdict, done.stdout
    assert "broken" not in found.values()
    assert done.returncode == (verdict == "broken")
