"""What a hostile run does: each a script that must change nothing but the end of its own job.

They run in a job's workspace. `STATE`, `SECRETS`, `PYTHON`, `DAEMON_HOME` and the like are set as in `support/walls.py`.
"""

from support.walls import ATTEMPTS

_LEAVE = "sleep 0.1; exit 7"

DAMAGES = {
    "its folder removed": 'cd /; rm -rf "$(dirname "$DISPATCHD_WORKSPACE")"; exit 2',
    "its folder a file": 'cd /; R=$(dirname "$DISPATCHD_WORKSPACE"); rm -rf "$R"; echo x >"$R"; exit 2',
    "its folder a link": 'cd /; R=$(dirname "$DISPATCHD_WORKSPACE"); rm -rf "$R"; ln -s /nonexistent/x "$R"; exit 2',
    "its folder a pipe": 'cd /; R=$(dirname "$DISPATCHD_WORKSPACE"); rm -rf "$R"; mkfifo "$R"; exit 2',
    "a file in the next attempt's place": "echo x >../attempt-2; exit 2",
    "a link in the next attempt's place": "ln -s /nonexistent/x ../attempt-2; exit 2",
    "a link to a folder in the next attempt's place": 'mkdir x; ln -s "$PWD/x" ../attempt-2; exit 2',
    "a pipe in the next attempt's place": "mkfifo ../attempt-2; exit 2",
    "a full folder in the next attempt's place": "mkdir -p ../attempt-2/a/b; chmod 0 ../attempt-2/a; chmod 555 ../attempt-2; exit 2",
    "its payload a pipe": "rm ../event.json; mkfifo ../event.json; exit 2",
    "its headers a pipe": "rm ../headers.json; mkfifo ../headers.json; exit 2",
    "its payload a folder": "rm ../event.json; mkdir ../event.json; exit 2",
    "its payload a device": "rm ../event.json; ln -s /dev/zero ../event.json; exit 2",
    "its own folder gone": 'rm -rf "$DISPATCHD_ATTEMPT_FOLDER"; exit 2',
    "its own folder a link": 'rm -rf "$DISPATCHD_ATTEMPT_FOLDER/run"; ln -s /nonexistent "$DISPATCHD_ATTEMPT_FOLDER/run"; exit 2',
    "its output a pipe": 'rm "$DISPATCHD_ATTEMPT_FOLDER/output.log"; mkfifo "$DISPATCHD_ATTEMPT_FOLDER/output.log"; exit 2',
    "its workspace a link": 'cd /; rm -rf "$DISPATCHD_WORKSPACE"; ln -s /nonexistent "$DISPATCHD_WORKSPACE"; exit 2',
    "its workspace a link to itself": 'cd /; rm -rf "$DISPATCHD_WORKSPACE"; ln -s workspace "$DISPATCHD_WORKSPACE"; exit 2',
    "its modes": 'chmod 0 .. . "$DISPATCHD_ATTEMPT_FOLDER" "$DISPATCHD_ATTEMPT_FOLDER/run"; exit 2',
}
"""What a run can do to its own folder, by what is wrong with it then."""

TRICKS = {
    "a forged end": 'echo 0 >"$DISPATCHD_ATTEMPT_FOLDER/exit"; kill -9 "$PPID"; exit 7',
    "its outputs a pipe": 'rm "$GITHUB_OUTPUT"; mkfifo "$GITHUB_OUTPUT"; exit 7',
    "its summary a device": 'rm "$GITHUB_STEP_SUMMARY"; ln -s /dev/zero "$GITHUB_STEP_SUMMARY"; exit 7',
    "its outputs another's secret": 'rm "$GITHUB_OUTPUT"; ln -s "$SECRETS/secret" "$GITHUB_OUTPUT"; exit 7',
    "events without end": 'head -c 3000000 /dev/zero >>"$DISPATCHD_EVENTS"; exit 7',
    "output without end": "head -c 8000000 /dev/urandom; exit 7",
    "escapes of a terminal": "printf '\\033]0;PWNED\\007\\033[2J\\302\\233\\342\\200\\256'; exit 7",
    "very many files": "i=0; while [ $i -lt 3000 ]; do : >f$i; i=$((i+1)); done; exit 7",
    "a deep tree": "i=0; while [ $i -lt 600 ]; do mkdir d && cd d || break; i=$((i+1)); done; exit 7",
    "a tree that can't be read": "mkdir -p a/b/c; chmod 0 a/b; chmod 111 a; exit 7",
    "processes that stay": f"for i in 1 2 3 4 5; do setsid sleep 600 & done; {_LEAVE}",
    "processes that hide": f"env -i setsid sh -c 'exec sleep 600' & env -i setsid -f sleep 600; {_LEAVE}",
    "processes that don't heed": f"(trap '' TERM; exec setsid sh -c 'while :; do sleep 1; done') & {_LEAVE}",
    "very many processes": f"i=0; while [ $i -lt 150 ]; do sleep 600 & i=$((i+1)); done; {_LEAVE}",
    "a stop of its shim and of the daemon": f"kill -STOP $PPID; kill -STOP $DAEMON; kill -STOP $OTHER; {_LEAVE}",
    "an end of its group": "trap '' TERM HUP INT QUIT; kill -TERM 0; kill -HUP 0; exit 7",
    "modes of the daemon's folders": 'for i in 1 2 3; do chmod 0 "$STATE" "$STATE/jobs" "$STATE/runs" "$STATE/history"; done; exit 7',
    "times of the daemon's records": 'touch -c -d 2001-01-01 "$STATE"/history/good-*.json "$STATE"/jobs/*.json; exit 7',
    "modes of other runs": 'for i in 1 2 3; do chmod -R 0 "$STATE"/runs/good-* 2>/dev/null; done; exit 7',
    "a name of another attempt": f"env DISPATCHD_ATTEMPT_FOLDER=/nowhere setsid -f sleep 600; {_LEAVE}",
    "descriptors on their way": '"$PYTHON" -c \'import socket, time\nheld = []\n'
    'try:\n while len(held) < 200:\n  held += socket.socketpair()\n  [socket.send_fds(held[-1], [b"x"], [0] * 250) for _ in range(3)]\n'
    "except OSError: pass\ntime.sleep(0.5)'; exit 7",
    "a poisoned git": 'git config --global core.sshCommand "touch $STATE/pwned"; git init -q . ; exit 7',
    "the control socket": '"$PYTHON" -c \'import os, socket; s = socket.socket(socket.AF_UNIX); s.connect(os.environ["STATE"] + "/control.sock"); '
    's.sendall(b"POST /v1/pause HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 0\\r\\n\\r\\n"); print(s.recv(999))\'; exit 7',
    "all connections of the control socket": '"$PYTHON" -c \'import os, socket, time; a = [socket.socket(socket.AF_UNIX) for _ in range(100)]\n'
    'for s in a: s.settimeout(1); s.connect(os.environ["STATE"] + "/control.sock")\ntime.sleep(1)\'; exit 7',
}

ATTACKS = {
    **DAMAGES,
    **TRICKS,
    **{
        name: f"({script}) >/dev/null 2>&1; exit 7" for name, script in ATTEMPTS.items()
    },
}
