"""The commands of every page, as they are written: on a machine with systemd, on which a release is installed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import bundle
from support.documentation import PAGES, fences
from support.github import app_key
from support.github_app import CODE, INSTALLATION, github_app, press
from support.nspawn import Machine, booted_with_packages
from support.release import built, fence
from support.tutorial import Page, Reader

pytestmark = pytest.mark.timeout(600)

PATH = "/opt/dispatchd/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

JOIN = re.compile(r"dispatchd join (http\S+ dhub1\S+)")
JOB = re.compile(r"^[0-9a-f]{8}-[0-9a-f-]{27}$", re.MULTILINE)

ELSEWHERE = {
    ("README.md", "make quickstart"): ("test_first_commands.py", '"make quickstart"'),
    ("docs/install.md", "tar xf"): ("test_bundle.py", 'fence("The bundle: without a'),
    ("docs/install.md", "chmod +x"): ("test_one_file.py", 'fence("The one file")'),
    ("docs/webhooks.md", "body="): ("test_hub_webhooks.py", '"## Any other sender"'),
    **{
        (f"docs/tutorials/first-{name}.md", ""): (
            "test_tutorials.py",
            f"first-{name}.md",
        )
        for name in ("job", "check")
    },
}
"""Page and beginning of commands -> the test that runs them, and what it finds them by."""

NOT_RUN = {
    ("docs/install.md", "podman build"): "a base image has to come from a registry; "
    "test_hub_image.py does each step on an image of this machine's files",
}
"""Page and beginning of commands -> why no test runs them as they are written."""

STAND_INS = """
sudo() { setpriv --reuid="$2" --regid="$2" --init-groups "${@:3}"; }
pip() { PYTHONPATH=/opt/packages PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 command pip "$@"; }
openapi-python-client() { PYTHONPATH=/opt/packages python3 -m openapi_python_client "$@"; }
editor() { printf '[workflows.later]\\ncommand = ["true"]\\n' >>"$1"; }
"""
"""Programs that the machine hasn't, or that need a person."""

CLOUD = """
[cloud]
url = "http://127.0.0.1:9"
license_id = "lic-0000"
server_id = "m1"
secret_file = "/root/engine/secret"
"""

FRESH = """
dispatchd service uninstall --yes
rm -rf /etc/dispatchd /var/lib/dispatchd
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot a machine, and install the wheel as its page says, with what it needs from the bundle."""
    wheel, archive = built("*.whl"), built("*-bundle-*.tar.gz")
    if not Path(f"/usr/bin/python{bundle.PYTHON}").exists():
        pytest.skip(f"the machine has no /usr/bin/python{bundle.PYTHON}")
    folder = tmp_path_factory.mktemp("machine")
    with booted_with_packages(folder, apart=True) as found:
        found.run_now("umount", "/opt/dispatchd/bin/dispatchd")
        found.run_now("rm", "-rf", "/opt/dispatchd")
        with reader(found, "release").terminal() as terminal:
            terminal.types(f"cp /opt/source/dist/{wheel.name} .")
            terminal.types(f"tar xf /opt/source/dist/{archive.name}")
            terminal.types(
                'export PIP_NO_INDEX=1 PIP_FIND_LINKS="$(echo "$PWD"/*/wheels)"'
            )
            terminal.types(fence("The wheel"))
        yield found


def commands(page: str) -> list[str]:
    return [each.content for each in fences(page) if each.info == "sh"]


def elsewhere(page: str) -> list[str]:
    return [begin for at, begin in (*ELSEWHERE, *NOT_RUN) if at == page]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_run(page: str) -> None:
    """A page that is opened here requires itself that nothing of it is left."""
    opened = re.findall(r'Page\(\s*"(\S+)"', Path(__file__).read_text())
    others = elsewhere(page)

    left = [each for each in commands(page) if not each.startswith(tuple(others))]
    assert page in opened or left == []
    assert [
        begin
        for begin in others
        if not any(each.startswith(begin) for each in commands(page))
    ] == []


@pytest.mark.parametrize(("page", "begin"), ELSEWHERE)
def test_another_test_runs_them(page: str, begin: str) -> None:
    file, by = ELSEWHERE[page, begin]

    assert by in Path(__file__).with_name(file).read_text()


def reader(machine: Machine, name: str) -> Reader:
    """Return root of a machine, in a folder of its own."""
    home = f"/root/{name}"
    begin = f"mkdir -p {home}; cd {home}; exec bash -euo pipefail"
    enter = ("nsenter", "-t", str(machine.init), "-a", "--")
    return Reader(Path(home), PATH, (*enter, "/bin/sh", "-c", begin))


@pytest.mark.release
def test_the_readme(machine: Machine) -> None:
    page = Page(
        "README.md",
        reader(machine, "readme"),
        passed_over=tuple(elsewhere("README.md")),
        filled={"URL KEY": JOIN},
    )
    with page.opened() as terminal:
        # A checkout whose environment is made.
        terminal.types("ln -s /opt/source/{Makefile,pyproject.toml} .")
        terminal.types("mkdir .venv; ln -s /opt/dispatchd/bin .venv; touch .venv/.demo")
        demo = page.runs(terminal, "make demo")
        page.aside(terminal, "dispatchd quickstart")
        page.runs(terminal, "dispatchd hub machine add build-1")
        status = terminal.types("dispatchd status")
        terminal.types(FRESH)

    assert "8 jobs, each started at most once and reported." in demo
    assert "ready" in status


WORKFLOW = """
[workflows.tests]
command = ["sh", "-c", "mkdir dist; echo done >dist/report"]
artifacts = ["dist/*"]
"""


@pytest.mark.release
def test_a_hub_and_its_clients(machine: Machine) -> None:
    filled: dict[str, str | re.Pattern[str]] = {
        "dhub1.PUBLIC.CERTIFICATE.SECRET": re.compile(r"\bdhub1\.\S+"),
        "JOB": JOB,
        "DIR": "results",
        "FILE": "hub-1.db",
    }
    home = reader(machine, "hub")
    page = Page("docs/hub.md", home, filled=filled)
    client = Page("docs/client.md", home)
    with page.opened() as terminal, client.opened() as other:
        other.types(STAND_INS)
        page.runs(terminal, "dispatchd hub init")
        page.runs(terminal, "dispatchd join")
        terminal.types(f"cat >>/etc/dispatchd/config.toml <<'END'\n{WORKFLOW}\nEND")
        page.aside(terminal, "dispatchd run")
        done = page.runs(terminal, "export DISPATCHD_HUB_CONFIG")
        page.aside(terminal, "dispatchd hub watch JOB")
        page.runs(terminal, "dispatchd hub artifacts JOB")
        results = terminal.types("cat results/dist/report")
        page.runs(terminal, "dispatchd hub backup FILE")
        page.runs(terminal, "dispatchd hub keys rotate page")
        client.runs(other, "openapi-python-client generate")
        calls = other.types("ls */*/api/jobs")
        terminal.types(FRESH)

    assert "succeeded" in done
    assert results == "done\n"
    assert "submit_job.py" in calls


@pytest.mark.release
def test_a_service(machine: Machine) -> None:
    """The page of the service, and those that are about one that is there."""
    page = Page(
        "systemd/README.md", reader(machine, "release"), filled={"URL KEY": JOIN}
    )
    log = Page("docs/log-events.md", page.reader)
    care = Page("docs/how-to/hub-care.md", page.reader)
    with page.opened() as terminal, log.opened() as journal, care.opened() as hub:
        terminal.types(STAND_INS)
        # A hub elsewhere.
        terminal.types("dispatchd hub init elsewhere --listen 127.0.0.1:8500")
        page.aside(terminal, "dispatchd hub serve --config elsewhere/hub.toml")
        page.aside(terminal, "dispatchd hub machine add m1 --config elsewhere/hub.toml")
        page.runs(terminal, "python3 -m venv /opt/dispatchd")
        log.runs(journal, "journalctl -u dispatchd")
        page.runs(terminal, "/opt/dispatchd/bin/pip install")
        hub.types("mkdir -p /var/backups")
        care.runs(hub, "dispatchd hub backup")
        backup = hub.types("ls /var/backups")
        terminal.types("dispatchd service uninstall --hub --yes")
        terminal.types(FRESH)

    assert backup == "hub-1.db\n"


@pytest.mark.release
def test_the_debian_package(machine: Machine) -> None:
    package = built("dispatchd_*.deb")
    page = Page(
        "docs/install.md",
        reader(machine, "debian"),
        # The first one has made this machine.
        passed_over=("python3 -m venv", *elsewhere("docs/install.md")),
        filled={"URL KEY": JOIN},
    )
    with page.opened() as terminal:
        terminal.types(STAND_INS)
        page.aside(terminal, "dispatchd hub init elsewhere --listen 127.0.0.1:8500")
        page.aside(terminal, "dispatchd hub serve --config elsewhere/hub.toml")
        page.aside(terminal, "dispatchd hub machine add m1 --config elsewhere/hub.toml")
        terminal.types("PATH=/usr/sbin:/usr/bin:/sbin:/bin; hash -r")
        terminal.types(f"cp /opt/source/dist/{package.name} .")
        page.runs(terminal, "apt install")
        page.runs(terminal, "dispatchd join")
        status = terminal.types("dispatchd status")
        terminal.types("apt purge --yes dispatchd")

    assert "ready" in status


@pytest.mark.release
def test_the_hub_and_github(tmp_path: Path) -> None:
    page = Page("docs/github.md", Reader(tmp_path), filled={"code=...": f"code={CODE}"})
    rules, shown = (each.content for each in fences(page.name) if each.info == "toml")
    with page.opened() as terminal, github_app(app_key()) as github:
        github.repositories = {"acme/shop": INSTALLATION}
        github.hook["url"] = "https://hub.example.org/webhooks/github"
        own = rules.replace("[github]\n", f'[github]\napi_url = "{github.url}"\n')
        terminal.types(f"dispatchd hub init hub; cat >rules <<'END'\n{own}\nEND")
        terminal.types("cp -r hub by-hand; cat rules | tee -a */hub.toml; cd hub")
        asked = page.runs(terminal, "dispatchd hub github setup", until="and press")
        [page_url] = re.findall(r"http://127\S+", asked)
        press(page_url)
        checked = terminal.types(":")
        written = terminal.types("cat hub.toml.d/50-github-app.toml")
        github.codes.add(CODE)
        terminal.types("cd ../by-hand")
        by_hand = page.runs(terminal, "dispatchd hub github setup")

    assert shown in written
    for each in (checked, by_hand):
        assert re.search(r"ok +rules +tests", each), each
        assert "failed" not in each


@pytest.mark.release
def test_the_reference_endpoint(machine: Machine) -> None:
    page = Page("examples/endpoint/README.md", reader(machine, "endpoint"))
    vendor = Page("docs/vendor.md", page.reader)
    with page.opened() as terminal, vendor.opened() as other:
        terminal.types("ln -s /opt/source/examples .")
        page.runs(terminal, "python3 examples/endpoint/serve.py")
        job = page.runs(terminal, "curl")
        judged = vendor.runs(other, "dispatchd conformance")

    assert '"id"' in job
    assert " 0 broken" in judged


# Each trial of an engine waits for its time limits.
@pytest.mark.torture(least_s=200)
@pytest.mark.release
def test_an_engine_of_ones_own(machine: Machine) -> None:
    page = Page("examples/engine/README.md", reader(machine, "engine"))
    engines = Page("docs/engines.md", page.reader)
    with page.opened() as terminal, engines.opened() as other:
        terminal.types(STAND_INS)
        terminal.types("ln -s /opt/source/examples .")
        page.runs(terminal, "pip install ./examples/engine")
        [config] = [each.content for each in fences(page.name) if each.info == "toml"]
        terminal.types("mkdir -p /etc/dispatchd /srv/ci")
        terminal.types("install -m 600 /dev/null secret; echo s3cret >secret")
        terminal.types("ln -s /bin/true /srv/ci/build.sh")
        config = config.replace("slots = 4", "slots = 4\npoll_s = 1")
        terminal.types(f"cat >/etc/dispatchd/config.toml <<'END'\n{CLOUD}{config}\nEND")
        judged = page.runs(terminal, "dispatchd engine check toy")
        engines.runs(other, "dispatchd engine check toy")
        terminal.types("rm -rf /etc/dispatchd /var/lib/toy")

    assert " 0 broken" in judged
