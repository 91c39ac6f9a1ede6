"""Everyday tool chains that work in a run as they are, or with some keys of its workflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

HOME: Final = "/home/ci"
"""Placeholder in `keys` for the home of the daemon's user."""

CACHE: Final = "/var/cache/ci"
"""Placeholder in `keys` and scripts for a folder outside of the run."""


@frozen(kw_only=True)
class Chain:
    """Use of some tools by a run.

    `script` is for sh(1) and ends at the first error. `needs` are the programs that it can't be tried without.
    `keys` are lines of the workflow's table; without them the script fails in the sandbox. `before` is a script that is
    run outside of any isolation; where it fails, the chain isn't tried.
    """

    script: str
    needs: tuple[str, ...] = ()
    keys: str = ""
    before: str = ""
    cheap: bool = False
    dear: bool = False
    """Whether it takes a minute of processor time, for which only `make torture` has the patience."""
    as_root: bool = True
    """Whether it can be done as root at all."""
    enclosed: bool = True
    """Whether it works in bubblewrap, too, for another user than root."""

    @property
    def cell(self) -> str:
        """Cell of the table in docs/security.md."""
        return " and ".join(f"`{line}`" for line in self.keys.splitlines()) or "works"

    def placed(self, text: str, cache: Path) -> str:
        """Return keys or a script with the folders of this machine."""
        return text.replace(HOME, str(Path.home())).replace(CACHE, str(cache))


_COMMIT = "git -c user.name=n -c user.email=e@example.org commit -q"
_MAIN_C = r"printf 'int main(void) { return 0; }\n' >m.c"
_POSTGRES = 'PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)"\n'
_NAMES = """
getent passwd "$(id -u)" && getent group "$(id -g)" && getent hosts localhost && getent services https && id && hostname
"""
_PLACES = """
LC_ALL=C.UTF-8 locale charmap | grep UTF-8 && TZ=America/New_York date -d @0 +%H | grep 19
"$PYTHON" -c 'import zoneinfo; zoneinfo.ZoneInfo("Europe/Berlin"); import time; time.localtime()'
"""
_WHEEL = r"""
mkdir w
"$PYTHON" - <<'END'
import zipfile
with zipfile.ZipFile("w/p-1-py3-none-any.whl", "w") as wheel:
    wheel.writestr("p.py", "x = 7")
    info = "p-1.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: p\nVersion: 1\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: it\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
END
"""
"""Script that makes a wheel in a folder `w`."""

CHAINS: Final[Mapping[str, Chain]] = {
    "git with a submodule": Chain(
        cheap=True,
        needs=("git",),
        script=rf"""
git init -q s && (cd s && {_COMMIT} --allow-empty -m m)
git init -q t && cd t && git -c protocol.file.allow=always submodule --quiet add ../s && {_COMMIT} -m m
git clone -q . ../u && cd ../u && git -c protocol.file.allow=always submodule --quiet update --init && test -e s/.git
""",
    ),
    "git worktree": Chain(
        cheap=True,
        needs=("git",),
        script=rf"git init -q s && cd s && {_COMMIT} --allow-empty -m m && git worktree add -q ../w && git -C ../w log --oneline",
    ),
    "git LFS": Chain(
        needs=("git", "git-lfs"),
        script=rf"""
git lfs install --skip-repo && git init -q --bare r.git && git clone -q r.git s && cd s
git lfs track '*.bin' && head -c 100000 /dev/urandom >a.bin && git add . && {_COMMIT} -m m && git push -q origin HEAD
cd .. && git clone -q r.git t && cmp s/a.bin t/a.bin && test "$(cd t && git lfs ls-files | wc -l)" = 1
""",
    ),
    "git over ssh": Chain(
        needs=("git", "ssh", "ssh-keygen"),
        as_root=False,
        before='PATH="$PATH:/usr/sbin" && command -v sshd',
        script=r"""
PATH="$PATH:/usr/sbin"
eval "$(ssh-agent -s)" && ssh-keygen -q -t ed25519 -N '' -f key && ssh-keygen -q -t ed25519 -N '' -f host && ssh-add -q key
printf 'HostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\n' "$PWD/host" "$PWD/key.pub" >sshd_config
echo "there $(cat host.pub)" >known
export GIT_SSH_COMMAND="ssh -o UserKnownHostsFile=$PWD/known -o ProxyCommand='$(command -v sshd) -i -f $PWD/sshd_config'"
git init -q s && (cd s && git -c user.name=n -c user.email=e@example.org commit -q --allow-empty -m m)
git clone -q "there:$PWD/s" t && kill "$SSH_AGENT_PID"
""",
    ),
    "make -j": Chain(
        cheap=True,
        needs=("make", "cc"),
        script=rf"""
{_MAIN_C}
printf 'all: a b c\na b c: m.c\n\tcc -o $@ m.c\nsub:\n\t$(MAKE) all\n' >Makefile
make -s -j4 sub && ./a && ./b && ./c
""",
    ),
    "cmake": Chain(
        needs=("cmake", "cc"),
        script=rf"""
{_MAIN_C}
printf 'cmake_minimum_required(VERSION 3.5)\nproject(p C)\nenable_testing()\nadd_executable(m m.c)\nadd_test(m m)\n' >CMakeLists.txt
cmake -S . -B b && cmake --build b -j2 && cd b && ctest
""",
    ),
    "ccache": Chain(
        needs=("ccache", "cc"),
        script=rf"{_MAIN_C} && ccache cc -c m.c && rm m.o && ccache cc -c m.c && ccache -s",
    ),
    "go": Chain(
        needs=("go",),
        dear=True,
        script=r"""
mkdir p && cd p && go mod init example.org/p
printf 'package main\nfunc main() {}\n' >m.go
printf 'package main\nimport "testing"\nfunc TestIt(t *testing.T) { t.TempDir() }\n' >m_test.go
go build -o m . && ./m && go test ./...
""",
    ),
    "node and npm": Chain(
        needs=("node", "npm"),
        script=r"""
mkdir a b && cd a && npm init -y >/dev/null && echo 'module.exports = 7' >index.js && npm pack --silent
cd ../b && npm init -y >/dev/null && npm install --offline --no-audit --no-fund ../a/a-1.0.0.tgz
test "$(node -p 'require("a")')" = 7 && npx --offline --no-install node -e 0
""",
    ),
    "venv and pip install from a folder": Chain(
        script=f"""
{_WHEEL}"$PYTHON" -m venv v && v/bin/pip install --quiet --no-index --find-links w p && v/bin/python -c 'import p; assert p.x == 7'
""",
    ),
    "pip install from a registry": Chain(
        before='"$PYTHON" -m pip download --quiet --no-deps --no-cache-dir --dest /var/cache/ci iniconfig',
        script='"$PYTHON" -m venv v && v/bin/pip install --quiet iniconfig && v/bin/python -c "import iniconfig"',
    ),
    "pytest-xdist": Chain(
        script=r"""
"$PYTHON" -c 'import xdist'
printf 'def test_a(tmp_path):\n    (tmp_path / "x").touch()\ndef test_b():\n    pass\n' >test_it.py
"$PYTHON" -m pytest -q -n 2 -p no:cacheprovider test_it.py
""",
    ),
    "java": Chain(
        needs=("javac", "java"),
        script=r"""
printf 'public class M { public static void main(String[] a) { System.out.println("7"); } }\n' >M.java
javac M.java && test "$(java M)" = 7
""",
    ),
    "ruby": Chain(
        needs=("ruby", "gem"),
        script=r"""
printf 'Gem::Specification.new { |s| s.name = "p"; s.version = "1"; s.summary = "p"; s.authors = ["n"]; s.files = [] }\n' >p.gemspec
gem build -q p.gemspec && gem install -q --local --user-install p-1.gem && ruby -e 'gem "p"'
""",
    ),
    "LaTeX": Chain(
        needs=("pdflatex",),
        script=r"printf '%s' '\documentclass{article}\begin{document}x\end{document}' >p.tex && pdflatex -interaction=batchmode p.tex && test -s p.pdf",
    ),
    "aspell": Chain(
        needs=("aspell",),
        before="echo helo | aspell -l en list",
        script='test "$(echo helo | aspell -l en list)" = helo',
    ),
    "sqlite": Chain(
        cheap=True,
        needs=("sqlite3",),
        script=r"sqlite3 db 'pragma journal_mode = wal; create table t (a); insert into t values (1); select * from t'",
    ),
    "postgres started by the run": Chain(
        as_root=False,
        before=f"{_POSTGRES}command -v initdb",
        script=_POSTGRES
        + r"""
initdb -D d -A trust >/dev/null
pg_ctl -w -D d -l log -o "-k '$TMPDIR' -c listen_addresses=" start >/dev/null || { cat log; exit 1; }
psql -h "$TMPDIR" -d postgres -c 'create table t (a int)' && pg_ctl -w -D d -m fast stop
""",
        needs=("psql",),
    ),
    "chromium --no-sandbox": Chain(
        needs=("chromium",),
        script=r"""
echo '<p id=it></p><script>document.getElementById("it").textContent = 6 + 1</script>' >p.html
chromium --headless=new --no-sandbox --disable-gpu --dump-dom "file://$PWD/p.html" >dom && grep '<p id="it">7</p>' dom
""",
    ),
    "qemu-user": Chain(
        needs=("qemu-x86_64",),
        script=r"""test "$(qemu-x86_64 /bin/echo 7)" = 7""",
    ),
    "ssh-agent": Chain(
        needs=("ssh-agent", "ssh-keygen"),
        script=r"""
eval "$(ssh-agent -s)" && ssh-keygen -q -t ed25519 -N '' -f key && ssh-add -q key && ssh-add -l
kill "$SSH_AGENT_PID"
""",
    ),
    "gpg": Chain(
        needs=("gpg",),
        script=r"""
gpg --batch --quiet --passphrase '' --quick-generate-key it@example.org default default never
echo x >f && gpg --batch --quiet --detach-sign f && gpg --verify f.sig f && gpgconf --kill all
""",
    ),
    "a server in the background": Chain(
        cheap=True,
        script=r"""
"$PYTHON" -u -m http.server --bind 127.0.0.1 0 >port 2>&1 &
until url=$(grep -o 'http://[0-9.:]*' port); do kill -0 $!; done
"$PYTHON" -c "import urllib.request as r; assert r.urlopen('$url').status == 200"
kill $!
""",
    ),
    "a server that is left in the background": Chain(
        cheap=True,
        script=r"""nohup "$PYTHON" -m http.server --bind 127.0.0.1 0 >/dev/null 2>&1 &""",
    ),
    "Unix sockets": Chain(
        cheap=True,
        script=r"""
"$PYTHON" - <<'END'
import os, socket, tempfile
path = os.path.join(tempfile.mkdtemp(), "a-name-of-twenty-chars")
for address in (path, os.path.join(os.environ["HOME"], ".socket-of-an-agent")):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(address)
        server.listen()
        client.connect(address)
END
""",
    ),
    "script, on a pseudoterminal": Chain(
        cheap=True,
        needs=("script",),
        keys='write_paths = ["/dev/pts"]',
        script=r"""script -qec 'test -t 0 && tty && stty size' log </dev/null && cat log""",
    ),
    "strace of a child": Chain(
        cheap=True,
        needs=("strace",),
        script=r"strace -f -qq -o trace true && test -s trace",
    ),
    "gdb": Chain(
        needs=("gdb", "cc"),
        script=rf"""
{_MAIN_C} && cc -g -o m m.c
gdb -q -batch -ex 'break main' -ex run -ex bt ./m </dev/null | grep '#0  main'
sleep 60 & gdb -q -batch -p $! -ex bt </dev/null; kill $!
""",
    ),
    "core dumps": Chain(
        cheap=True,
        before="ulimit -c unlimited",
        needs=("cc",),
        script=r"""
printf '#include <stdlib.h>\nint main(void) { abort(); }\n' >m.c && cc -o m m.c && ulimit -c unlimited
./m || test $? = 134
case $(cat /proc/sys/kernel/core_pattern) in core) ls core*;; esac
""",
    ),
    "valgrind": Chain(
        needs=("valgrind", "cc"),
        script=rf"{_MAIN_C} && cc -g -o m m.c && valgrind -q --error-exitcode=9 ./m",
    ),
    "cc -fsanitize=address": Chain(
        needs=("cc",),
        before=f"cd {CACHE} && {_MAIN_C} && cc -fsanitize=address,undefined -o m m.c",
        script=rf"{_MAIN_C} && cc -fsanitize=address,undefined -o m m.c && ./m",
    ),
    "perf": Chain(
        needs=("perf",),
        before=r"perf stat -e task-clock true",
        script=r"perf stat -e task-clock true",
    ),
    "locale and time zone": Chain(cheap=True, before=_PLACES, script=_PLACES),
    "getent and id": Chain(cheap=True, before=_NAMES, script=_NAMES),
    "tar and xz": Chain(
        cheap=True,
        needs=("tar", "xz"),
        script=r"mkdir in && echo x >in/f && tar cJf a.txz in && rm -r in && tar xf a.txz && cat in/f",
    ),
    "fakeroot and dpkg-deb": Chain(
        needs=("fakeroot", "dpkg-deb"),
        # There are no other users in its namespace.
        enclosed=False,
        script=r"""
mkdir -p p/DEBIAN && printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: n <e@example.org>\nDescription: d\n' >p/DEBIAN/control
fakeroot sh -c 'chown -R root:root p && dpkg-deb -b p p.deb' && dpkg-deb -c p.deb
""",
    ),
    "dpkg and apt, to look at": Chain(
        needs=("dpkg-query", "apt-cache"),
        script=r"dpkg-query -W coreutils && apt-cache policy coreutils | grep Installed && update-alternatives --display awk",
    ),
    "docker, without an engine": Chain(
        needs=("docker",),
        script=r"docker --version && ! docker -H unix:///nonexistent.sock version",
    ),
    "git clone of a folder of the machine": Chain(
        cheap=True,
        needs=("git",),
        keys=f'read_paths = ["{CACHE}"]',
        before=rf"git init -q {CACHE}/s && cd {CACHE}/s && {_COMMIT} --allow-empty -m m",
        script=rf"git clone -q {CACHE}/s a && git clone -q file://{CACHE}/s b && git -C b log --oneline",
    ),
    "a cache that lasts, with flock": Chain(
        cheap=True,
        needs=("flock",),
        keys=f'write_paths = ["{CACHE}"]',
        script=rf"""
cd "$(mktemp -d)" && echo x >f && flock {CACHE}/lock mv f {CACHE}/f && cat {CACHE}/f
""",
    ),
    "git in a folder of another user": Chain(
        needs=("git",),
        keys=f'read_paths = ["{CACHE}"]\nenv = {{ GIT_CONFIG_GLOBAL = "{CACHE}/gitconfig" }}',
        before=f"""
cd {CACHE} && git init -q s && (cd s && {_COMMIT} --allow-empty -m m) && chown -R 65534 s
git config --file gitconfig safe.directory '*'
""",
        script=f"git -C {CACHE}/s log --oneline && git clone -q {CACHE}/s t",
    ),
    "settings of git, npm and pip": Chain(
        needs=("git", "npm"),
        keys=f'read_paths = ["{CACHE}"]\nenv = {{ GIT_CONFIG_GLOBAL = "{CACHE}/gitconfig",'
        f' NPM_CONFIG_USERCONFIG = "{CACHE}/npmrc", PIP_CONFIG_FILE = "{CACHE}/pip.conf" }}',
        before=f"""
cd {CACHE} && printf '[user]\n\tname = ci\n' >gitconfig && echo fund=false >npmrc && printf '[global]\ntimeout = 77\n' >pip.conf
""",
        script="""
test "$(git config user.name)" = ci && test "$(npm config get fund)" = false
"$PYTHON" -m pip config list | grep timeout=.77
""",
    ),
    "npm install -g": Chain(
        needs=("node", "npm"),
        keys='env = { NPM_CONFIG_PREFIX = "~/.npm" }',
        script="""
mkdir a && cd a && npm init -y >/dev/null && npm pack --silent
npm install -g --offline --no-audit --no-fund ./a-1.0.0.tgz && test -e ~/.npm/lib/node_modules/a
""",
    ),
    "cargo of rustup": Chain(
        before='test -d "$HOME/.rustup"',
        needs=("cargo",),
        script=r"cargo init --quiet --vcs none --name p p && cd p && cargo build --quiet --offline && cargo test --quiet --offline",
        keys=f'read_paths = ["{HOME}/.rustup"]\nenv = {{ RUSTUP_HOME = "{HOME}/.rustup" }}',
    ),
    "maven": Chain(
        needs=("mvn",),
        keys=f'write_paths = ["{CACHE}"]\nenv = {{ JAVA_TOOL_OPTIONS = "-Duser.home={CACHE}" }}',
        script="""
printf '<project><modelVersion>4.0.0</modelVersion><groupId>g</groupId><artifactId>a</artifactId>' >pom.xml
printf '<version>1</version><packaging>pom</packaging></project>' >>pom.xml
mvn --offline --quiet validate
""",
    ),
    "java with temporary files or a home": Chain(
        needs=("javac", "java"),
        keys=f'write_paths = ["{CACHE}"]\nenv = {{ JAVA_TOOL_OPTIONS = "-Duser.home={CACHE} -Djava.io.tmpdir={CACHE}" }}',
        script=r"""
cat >M.java <<'END'
import java.io.File;
public class M {
    public static void main(String[] a) throws Exception {
        File.createTempFile("it-", "");
        new File(System.getProperty("user.home"), "left-by-a-run").createNewFile();
    }
}
END
javac M.java
java M
""",
    ),
    "multiprocessing of Python (locks, queues, shared memory)": Chain(
        cheap=True,
        keys='write_paths = ["/dev/shm"]',
        script=r"""
cat >m.py <<'END'
import multiprocessing
from multiprocessing import shared_memory
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    memory = shared_memory.SharedMemory(create=True, size=8)
    memory.close()
    memory.unlink()
END
"$PYTHON" m.py
""",
    ),
    "tput": Chain(
        cheap=True,
        needs=("tput",),
        keys='env = { TERM = "xterm-256color" }',
        script='tput bold && test "$(tput colors)" = 256',
    ),
    "tmux": Chain(
        needs=("tmux",),
        keys='write_paths = ["/tmp", "/dev/pts"]\nenv = { SHELL = "/bin/sh", TERM = "xterm" }',
        script="""
tmux -L $$ new-session -d -s it 'echo 7 >f; sleep 60'
until test -s f; do tmux -L $$ has-session -t it; done
tmux -L $$ kill-server
""",
    ),
    "Xvfb": Chain(
        needs=("Xvfb",),
        as_root=False,
        keys='write_paths = ["/tmp"]',
        script=r"""
Xvfb -displayfd 3 -nolisten tcp 3>display 2>said & until test -s display; do kill -0 $! || { cat said; exit 1; }; done; kill $!
""",
    ),
    "dbus-run-session": Chain(
        needs=("dbus-run-session",),
        keys='write_paths = ["/tmp"]',
        script=r"dbus-run-session -- true",
    ),
    "chromium with its own sandbox": Chain(
        needs=("chromium", "bwrap"),
        as_root=False,
        keys='isolation = "bubblewrap"',
        script="""
echo '<p id=it></p><script>document.getElementById("it").textContent = 6 + 1</script>' >p.html
chromium --headless=new --disable-gpu --dump-dom "file://$PWD/p.html" >dom && grep '<p id="it">7</p>' dom
""",
    ),
    "user namespaces (unshare -r), oom_score_adj of its own": Chain(
        needs=("unshare", "choom", "bwrap"),
        as_root=False,
        keys='isolation = "bubblewrap"',
        script="unshare -rm true && choom -n 500 true",
    ),
    "OMP_PROC_BIND, renice and prlimit of another process of its own": Chain(
        needs=("cc", "bwrap"),
        keys='isolation = "bubblewrap"',
        script=r"""
printf '#include <stdio.h>\nint main(void) {\n#pragma omp parallel num_threads(2)\nputs("x");\nreturn 0;\n}\n' >m.c
cc -fopenmp -o m m.c && OMP_PROC_BIND=true ./m
sleep 60 &
renice -n 19 -p $! && prlimit --pid $! --nofile=64 && kill $!
""",
    ),
    "sudo": Chain(
        needs=("sudo",),
        as_root=False,
        before=r"sudo -n true",
        keys='isolation = "none"',
        script=r"sudo -n true",
    ),
    "ping, where net.ipv4.ping_group_range is empty": Chain(
        needs=("ping",),
        before=r"grep '^1[[:space:]]*0$' /proc/sys/net/ipv4/ping_group_range && ping -c 1 127.0.0.1",
        keys='isolation = "none"',
        script=r"ping -c 1 127.0.0.1",
    ),
}
"""The chains by their names in docs/security.md."""
