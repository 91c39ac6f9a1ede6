#!/usr/bin/env python3
"""A stand-in for a coding agent: shows all that a headless command does (contracts/README.md).

It reads its brief, tells what it is doing, edits the checkout that dispatchd has made, commits on a branch of
its own, pushes that if it has a token, and writes its result. Standard library and git; nothing of dispatchd.

    [workflows.agent]
    command = ["examples/coding-agent.py"]
    contract = "headless"
    checkout = true
    checkout_secret = "github"
    secrets = { GIT_TOKEN = "github" }
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

IDENTITY = ["-c", "user.name=Example Agent", "-c", "user.email=agent@example.com"]
CREDENTIALS = '!f() { echo username=x-access-token; echo "password=$GIT_TOKEN"; }; f'
"""Read by git itself from the environment, so that the token is in no argument and in no file."""

FAILED, TRY_AGAIN = 1, 2


def main() -> int:
    """Do the work of one attempt and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--context", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    brief = json.loads(arguments.context.read_text())
    if brief["contract_version"].split(".")[0] != "1":
        print(f"cannot read a brief of version {brief['contract_version']}")
        return FAILED
    request = wanted(brief)
    if not request:
        answer(
            arguments.output,
            status="needs_input",
            summary="What shall I do? The comment has no words after the command.",
            exit_reason="nothing-asked",
        )
        return 0
    return work(brief, request, arguments.output)


def work(brief: dict[str, Any], request: str, output: Path) -> int:
    """Edit, commit, push, answer."""
    branch = f"agent/{brief['job']['id']}"
    tell("phase", name="edit", at=now())
    began = now()
    notes = Path("NOTES.md")
    with notes.open("a") as file:
        file.write(f"- {request}\n")
    tell("span", name="edit NOTES.md", started_at=began, ended_at=now(), ok=True)
    tell("progress", completed=1, in_progress=1, total=3)

    tell("phase", name="commit", at=now())
    git("checkout", "--quiet", "-B", branch)
    git("add", str(notes))
    git(*IDENTITY, "commit", "--quiet", "-m", f"Note: {request[:50]}")
    commit = git("rev-parse", "HEAD").strip()
    tell("progress", completed=2, in_progress=1, total=3)

    if "GIT_TOKEN" in os.environ:
        tell("phase", name="push", at=now())
        helper = f"credential.helper={CREDENTIALS}"
        push = ["git", "-c", helper, "push", "--quiet", "--force", "origin", branch]
        if subprocess.run(push, check=False).returncode != 0:
            print("the push failed; another attempt may be luckier")
            return TRY_AGAIN
    else:
        tell("follow_up", text=f"Push {branch}; there was no token for it.")
    tell("progress", completed=3, in_progress=0, total=3)
    answer(
        output,
        status="success",
        summary=f"Noted the request in {notes} on {branch}.",
        exit_reason="completed",
        branch=branch,
        commits=[commit],
        files_changed=[str(notes)],
        artifacts=[str(notes)],
    )
    return 0


def wanted(brief: dict[str, Any]) -> str:
    """Return what is asked for: the comment's words after its first, or the trigger's name."""
    comment = brief["target"]["comment"]
    if comment is None:
        return f"{brief['trigger']['event']} on {brief['target']['ref']}"
    _, _, words = comment["body"].strip().partition(" ")
    return " ".join(words.split())


def tell(kind: str, **facts: object) -> None:
    """Append one event; losing it would cost nothing."""
    with Path(os.environ["DISPATCHD_EVENTS"]).open("a") as file:
        file.write(json.dumps({"type": kind, **facts}) + "\n")


def answer(output: Path, **facts: object) -> None:
    """Write the result as a whole: aside first, so that half of it is never read."""
    aside = output.with_suffix(".aside")
    aside.write_text(json.dumps({"contract_version": "1", **facts}, indent=1))
    aside.replace(output)


def git(*arguments: str) -> str:
    """Run git in the checkout and return what it prints."""
    return subprocess.run(
        ["git", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def now() -> str:
    """Return the time as events want it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    sys.exit(main())
