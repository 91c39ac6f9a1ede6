"""What runs try to reach, what has to go on working, and a scene in which both are tried."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define

from dispatchd.agent.domain.executions.identities import ProcessIdentity
from dispatchd.agent.domain.isolation import Isolation
from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.local.engine import LocalEngine
from dispatchd.agent.store.runs import Runs
from dispatchd.protocol.outcome import Exit
from dispatchd.redaction.known_secrets import KnownSecrets
from support.until import until


@define(kw_only=True)
class Scene:
    """A daemon's folders, with another run that is going on."""

    folder: Path
    local: LocalEngine

    def launch(
        self,
        name: str,
        script: str,
        isolation: Isolation = Isolation.SANDBOX,
        **env: str,
    ) -> Launch:
        runs = Runs.open(self.folder / "state")
        runs.create(name, payload="{}", headers="{}")
        attempt, run = runs.prepare_attempt(name, 1), runs.folder(name)
        way = runs.short_way(run, 1)
        home, temporary = str(way / "home"), str(way / "tmp")
        if isolation is not Isolation.SANDBOX:
            home, temporary = str(run.home(1)), "/tmp"  # that of the run
        return Launch(
            run_id=name,
            command=("/bin/sh", "-c", script),
            env={
                "PATH": os.environ["PATH"],
                "HOME": home,
                "TMPDIR": temporary,
                "EVENT": str(run.event_file),
                "FILES": str(run.files(1)),
                "RUN": str(run.path),
                "STATE": str(self.folder / "state"),
                "SECRETS": str(self.folder / "etc"),
                "DAEMON": str(os.getpid()),
                **env,
            },
            base_env={"PATH": os.environ["PATH"]},
            isolation=isolation,
            workspace=run.workspace,
            folder=attempt,
            files=run.files(1),
            inputs=(run.event_file,),
            hidden_paths=(str(self.folder / "etc/secret"),),
            output_file=attempt / "output.log",
        )

    async def start(self, launch: Launch) -> ProcessIdentity:
        identities: list[ProcessIdentity] = []

        async def record(process: ProcessIdentity) -> None:
            identities.append(process)

        await self.local.start(launch, record)
        return identities[0]

    async def run(self, launch: Launch) -> tuple[int | None, str]:
        end = await self.local.observe(await self.start(launch), launch.folder)
        assert isinstance(end, Exit)
        return end.code, launch.output_file.read_text()


@contextmanager
def new_scene(above: Path | None = None) -> Iterator[Scene]:
    """Yield a scene in a new folder below another one, or below that for temporary files."""
    # The address of a Unix socket has 107 bytes, of which a folder of pytest's takes more than half.
    with TemporaryDirectory(prefix="walls-", dir=above) as name:
        folder = Path(name)
        (folder / "etc").mkdir()
        (folder / "etc/secret").write_text("s3cret")
        (folder / "etc/other").write_text("fine")
        state = folder / "state"
        (state / "jobs").mkdir(parents=True)
        environment = dict(os.environ)
        with closing(LocalEngine.here(environment, KnownSecrets(), [state])) as local:
            yield Scene(folder=folder, local=local)


ATTEMPTS = {
    "read the machine's secret": 'cat "$SECRETS/secret"',
    "list the daemon's records": 'ls "$STATE/jobs"',
    "change the daemon's records": 'echo x >"$STATE/jobs/x.json"',
    "truncate the daemon's records": 'truncate -s 0 "$STATE/jobs/known.json"',
    "list all runs": 'ls "$STATE/runs"',
    "read another run's input": 'cat "$STATE/runs/other/event.json"',
    "read another run's files": 'ls "$STATE/runs/other/attempt-1/run"',
    "write into another run's workspace": 'echo x >"$STATE/runs/other/workspace/x"',
    "forge another run's exit code": 'echo 0 >"$STATE/runs/other/attempt-1/exit"',
    "forge its own exit code": 'echo 0 >"$DISPATCHD_ATTEMPT_FOLDER/exit"',
    "change its own input": 'echo x >"$EVENT"',
    "replace its own input": 'rm "$EVENT" && mkfifo "$EVENT"',
    "remove its own output": 'rm "$DISPATCHD_ATTEMPT_FOLDER/output.log"',
    "remove its run's folder": 'rm -rf "$RUN"',
    "take the next attempt's place": 'echo x >"$RUN/attempt-2"',
    "link into the next attempt's place": 'ln -s /nonexistent "$RUN/attempt-2"',
    "read the daemon's environment": "cat /proc/$DAEMON/environ",
    "read the daemon's memory": "head -c 1 /proc/$DAEMON/mem",
    "read the daemon's descriptors": "readlink /proc/$DAEMON/fd/0",
    "enter the daemon's root by proc": "ls /proc/$DAEMON/root/root",
    "enter the daemon's working folder by proc": "ls /proc/$DAEMON/cwd/",
    "signal the daemon": "kill -0 $DAEMON",
    "signal its shim": "kill -0 $PPID",
    "kill its shim": "kill -9 $PPID",
    "read its shim's environment": "cat /proc/$PPID/environ",
    "read its shim's request": "for f in /proc/$PPID/fd/*; do timeout 2 head -c 1 $f >f && exit 0; done; exit 1",
    "read another run's environment": "cat /proc/$OTHER/environ",
    "signal another run": "kill -0 $OTHER",
    # PTRACE_SEIZE of linux/ptrace.h, which ends with the process.
    "trace the daemon": '"$PYTHON" -c \'import ctypes, os, sys; '
    'sys.exit(ctypes.CDLL(None).ptrace(0x4206, int(os.environ["DAEMON"]), 0, 0) != 0)\'',
    "change the daemon's limits": "prlimit --pid $DAEMON --nofile=1:1",
    "renice the daemon": "renice -n 19 -p $DAEMON",
    "renice all of the user": '"$PYTHON" -c "import os; os.setpriority(os.PRIO_USER, 0, 19)"',
    "bind the daemon to a processor": "taskset -pc 0 $DAEMON",
    "change the daemon's scheduling": "chrt -b -p 0 $DAEMON",
    "change the daemon's disk priority": "ionice -c 3 -p $DAEMON",
    "change the daemon's place when memory runs out": "echo 1000 >/proc/$DAEMON/oom_score_adj",
    "leave something in /tmp": "touch /tmp/left-by-a-run-$$",
    "leave something in /var/tmp": "touch /var/tmp/left-by-a-run-$$",
    "leave something in /dev/shm": "touch /dev/shm/left-by-a-run-$$",
    "read the daemon's home": 'ls "$DAEMON_HOME"',
    "leave something in the daemon's home": 'touch "$DAEMON_HOME/left-by-a-run"',
    "read a disk": 'head -c 1 "$DISK"',
    "make a control group": "mkdir /sys/fs/cgroup/unified/mine || mkdir /sys/fs/cgroup/mine",
    "mount something": "mount -t tmpfs none .",
    "connect to an abstract socket of the daemon": '"$PYTHON" -c \'import socket, os; '
    'socket.socket(socket.AF_UNIX).connect("\\0" + os.environ["ABSTRACT"])\'',
    "take a descriptor of the daemon": '"$PYTHON" -c \'import ctypes, os; p = os.pidfd_open(int(os.environ["DAEMON"])); '
    "assert ctypes.CDLL(None).syscall(438, p, 0, 0) >= 0'",
    "leave a key in the user's keyring": '"$PYTHON" -c \'import ctypes, platform; '
    'number = {"x86_64": 248}.get(platform.machine(), 217); '
    'assert ctypes.CDLL(None).syscall(number, b"user", b"left-by-a-run", b"x", 1, -4) > 0\'',
    "leave a key in the session's keyring": '"$PYTHON" -c \'import ctypes, platform; '
    'number = {"x86_64": 248}.get(platform.machine(), 217); '
    'assert ctypes.CDLL(None).syscall(number, b"user", b"left-by-a-run", b"x", 1, -3) > 0\'',
    "make a user namespace": "unshare --user true",
    "write to a terminal of the daemon's user": 'echo x >"$TERMINAL"',
    "read from a terminal of the daemon's user": ': <"$TERMINAL"',
}
"""What no run may do; those that end well are the holes."""

OPEN = {
    "see the command line of another run": "cat /proc/$OTHER/cmdline",
    "see that a file of another run is there": 'test -e "$STATE/runs/other/event.json"',
    "see the names of files that change": '"$PYTHON" -c \'import ctypes, os; c = ctypes.CDLL(None); '
    'assert c.inotify_add_watch(c.inotify_init1(0), os.fsencode(os.environ["STATE"] + "/jobs"), 2) > 0\'',
    "change the mode of the daemon's records": 'chmod 600 "$STATE/jobs/known.json"',
    "set the time of the daemon's records": 'test -e "$STATE/jobs/known.json" && touch -c -d 2020-01-01 "$STATE/jobs/known.json"',
    "connect to a socket of another run": '"$PYTHON" -c \'import os, socket; '
    'socket.socket(socket.AF_UNIX).connect(os.environ["STATE"] + "/runs/other/workspace/s")\'',
    "connect to a service on loopback": '"$PYTHON" -c \'import os, socket; '
    'socket.create_connection(("127.0.0.1", int(os.environ["LOOPBACK"])), 5)\'',
    "use the user's System V shared memory": 'ipcrm -m "$(ipcmk -M 4096 | grep -o "[0-9]*$")"',
}
"""What stays open in the sandbox (docs/security.md)."""

TRIED = {**ATTEMPTS, **OPEN}

OWN = {
    Isolation.SANDBOX: set[str](),
    # In namespaces of its own these are about the run's own processes and folders, or about what lies on the way to them.
    Isolation.BUBBLEWRAP: {
        *("leave something in /tmp", "leave something in /var/tmp"),
        *("leave something in /dev/shm", "renice all of the user"),
        *("signal its shim", "kill its shim", "read its shim's environment"),
        *("read its shim's request", "read the daemon's home", "list all runs"),
        *("leave a key in the user's keyring", "make a user namespace"),
        "leave a key in the session's keyring",
        *("use the user's System V shared memory",),
    },
    Isolation.CONTAINER: {
        *("leave something in /tmp", "leave something in /var/tmp"),
        *("leave something in /dev/shm", "make a user namespace"),
        *("renice all of the user", "signal its shim", "kill its shim"),
        *("read its shim's environment", "read its shim's request"),
        *("read the daemon's home", "list all runs"),
        *("use the user's System V shared memory",),
    },
}
"""What ends well, and reaches nothing that isn't the run's own."""

POSSIBLE = {
    Isolation.SANDBOX: set(OPEN),
    Isolation.BUBBLEWRAP: {
        "connect to an abstract socket of the daemon",
        "connect to a service on loopback",
    },
    Isolation.CONTAINER: set[str](),
}
"""What reaches something else."""

COLUMNS = (*OWN, Isolation.NONE)


def word(isolation: Isolation, name: str) -> str:
    """Return what becomes of an attempt."""
    if isolation is Isolation.NONE or name in POSSIBLE[isolation]:
        return "possible"
    return "its own" if name in OWN[isolation] else "denied"


def table() -> str:
    """Return the table of docs/security.md."""
    head = (
        f"| a run wants to | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}"
    )
    rows = [
        f"| {name} | {' | '.join(word(isolation, name) for isolation in COLUMNS)} |"
        for name in TRIED
    ]
    return "\n".join([head, *rows])


EVERYDAY = {
    "use its workspace": "mkdir -p a/b && echo x >a/b/c && mv a/b/c d && cat d && rm -r a",
    "use its files": 'echo x >"$FILES/outputs" && mv "$FILES/outputs" "$FILES/moved"',
    "move between the two": 'echo x >y && mv y "$FILES/y" && mv "$FILES/y" z',
    "read its input": 'cat "$EVENT"',
    "use HOME": 'echo x >"$HOME/.profile" && cat ~/.profile',
    "use TMPDIR": 'test -f "$(mktemp)"',
    "write to its output by name": "echo a >/dev/stdout && echo b >/dev/stderr",
    "use devices": "head -c 8 /dev/urandom >/dev/null && : </dev/zero",
    "see processes": "ps aux >/dev/null && pgrep -f . >/dev/null",
    "end what it has started": "sleep 60 & kill $! && ! wait $!",
    "limit itself": "ulimit -n 64 && nice -n 1 true && taskset -c 0 true && ionice -c 3 true",
    "resolve names": "getent hosts localhost",
    "git": "git init -q g && cd g && git config user.name n && git config user.email e@example.org "
    "&& echo x >f && git add f && git commit -qm m && git clone -q . ../h && git -C ../h log --oneline",
    "a git submodule": "git init -q s && cd s && git -c user.name=n -c user.email=e@example.org commit -q --allow-empty -m m "
    "&& cd .. && git init -q t && cd t && git -c protocol.file.allow=always submodule --quiet add ../s",
    "a compiler and make": "printf 'int main(void){return 0;}\\n' >m.c && printf 'm: m.c\\n\\tcc -o m m.c\\n' >Makefile "
    "&& make -s && ./m",
    "tar": "mkdir in && echo x >in/f && tar czf a.tgz in && rm -r in && tar xzf a.tgz && cat in/f",
    "python": "\"$PYTHON\" -c 'import ssl, sqlite3, json'",
    "a virtual environment": '"$PYTHON" -m venv --without-pip v && v/bin/python -c "import sys"',
    "strace of a child": "strace -qq -o trace true",
}
"""What must go on working."""

NEEDS = {
    "use the user's System V shared memory": "ipcmk",
    "make a user namespace": "unshare",
    "strace of a child": "strace",
    "git": "git",
    "a git submodule": "git",
    "a compiler and make": "make",
}


def is_tried(name: str) -> bool:
    """Return whether this machine has what an attempt needs."""
    return name not in NEEDS or shutil.which(NEEDS[name]) is not None


def script(attempts: dict[str, str]) -> str:
    """Return a script that tries everything, each in a shell and a folder of its own, and says which went well."""
    return "\n".join(
        f"(mkdir t{number} && cd t{number} && {command}) </dev/null >said 2>&1 && echo {number} done"
        f" || {{ echo {number} not; sed 's/^/    /' said; }}"
        for number, (name, command) in enumerate(attempts.items())
        if is_tried(name)
    )


def done(attempts: dict[str, str], output: str) -> set[str]:
    """Return what went well."""
    names = list(attempts)
    return {
        names[int(line.split()[0])]
        for line in output.splitlines()
        if line.endswith(" done") and line[0].isdigit()
    }


@contextmanager
def targets(state: Path) -> Iterator[dict[str, str]]:
    """Yield the variables that name what attempts are made on, each of this process; the run `other` has its folder."""
    abstract = f"dispatchd-test-{os.getpid()}-{state.parent.name}"
    known = state / "jobs/known.json"
    known.write_text("known")
    with (
        socket.socket(socket.AF_UNIX) as hidden,
        socket.socket(socket.AF_UNIX) as named,
        socket.create_server(("127.0.0.1", 0)) as loopback,
        ExitStack() as stack,
    ):
        hidden.bind("\0" + abstract)
        hidden.listen()
        named.bind(str(state / "runs/other/workspace/s"))
        named.listen()
        master, terminal = os.openpty()
        stack.callback(os.close, master)
        stack.callback(os.close, terminal)
        yield {
            "STATE": str(state),
            "DAEMON": str(os.getpid()),
            "DAEMON_HOME": str(Path.home()),
            "PYTHON": sys.executable,
            "ABSTRACT": abstract,
            "LOOPBACK": str(loopback.getsockname()[1]),
            "TERMINAL": os.ttyname(terminal),
            "DISK": str(next(Path("/dev").glob("[nsv][dv]*a*"), "/dev/sda")),
        }
    assert known.read_text() == "known"


async def tried(
    scene: Scene, attempts: dict[str, str], isolation: Isolation
) -> tuple[set[str], str]:
    """Return what went well of some attempts, and all that was said, beside another run and what is the daemon's."""
    other = scene.launch(
        "other", "read line <pipe; exit 5", TOKEN="secret of the other"
    )
    os.mkfifo(other.workspace / "pipe")
    other_process = await scene.start(other)
    child = await until(lambda: command_of(other_process.pid), 30, "a command")
    with targets(scene.folder / "state") as env:
        mine = scene.launch(
            "mine", script(attempts), isolation, **env, OTHER=str(child)
        )
        code, output = await scene.run(mine)
    with (other.workspace / "pipe").open("w") as pipe:
        pipe.write("go\n")
    end = await scene.local.observe(other_process, other.folder)
    assert end == Exit(code=5)
    assert code == 0, output
    return done(attempts, output), output


def command_of(shim: int) -> int:
    """Return the pid of what a shim has started, once that is a program of its own; else 0."""
    pids = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    return next(
        (
            int(pid)
            for pid in pids
            if Path(f"/proc/{pid}/exe").readlink().name in {"sh", "dash", "bash"}
        ),
        0,
    )
