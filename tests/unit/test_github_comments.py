"""Commands in comments, from the comment to what is decided: the table of docs/github.md, case by case."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchd.hub.config.github import Permission
from dispatchd.hub.domain.document import JobDocument
from dispatchd.hub.github.event import read_event
from dispatchd.hub.github.ingest.decide import Free, decide, may, needed_for
from dispatchd.hub.github.routing.comment import MOST_COMMANDS, Command, Verb, commands
from dispatchd.hub.github.routing.route import OUR_MARK, Cancel, Run, route
from support.github_events import APP, HEAD, OTHER, SETTINGS, comment, pull

NOTHING: list[str] = []


def decided(
    payload: dict[str, Any],
    permission: str = "write",
    of: dict[str, Any] | None = None,
    event: str = "issue_comment",
) -> list[str]:
    """Return what becomes of a comment: for each step a rule and a commit, `cancel`, or why not."""
    plan = route(read_event(event, payload), SETTINGS)
    if not plan.steps:
        return NOTHING
    on_issue = "pull_request" not in payload["issue"]
    now = None if on_issue else of or pull()
    found: list[str] = []
    for step in plan.steps:
        if isinstance(step, Cancel):
            needed = needed_for(None, from_fork=False)
            found.append("cancel" if may(permission, needed) else "denied")
            continue
        assert isinstance(step, Run)
        assert step.command is not None
        document = JobDocument.of(sha=step.command.sha).without_empty()
        decision = decide(
            step.rule, event, payload, document, pull=now, permission=permission
        )
        if isinstance(decision, Free):
            sha = str(decision.document.get("sha", ""))
            fork = " fork" if decision.document.get("from_fork") else ""
            found.append(f"{step.rule.name} {sha[:4]}{fork}".rstrip())
        else:
            found.append("denied" if decision.is_denied else f"{step.rule.name}: no")
    return found


BOTH = ["tests ec26", "lint ec26"]
FORK = pull(fork=True)
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any] | None, list[str]]] = {
    # What is a command
    "alone": (comment("/run docs"), "write", None, ["docs ec26"]),
    "without a name": (comment("/run"), "write", None, BOTH),
    "upper case": (comment("/RUN Docs"), "write", None, ["docs ec26"]),
    "blanks around": (comment("  /run   docs  "), "write", None, ["docs ec26"]),
    "after text": (comment("Looks good.\n/run docs"), "write", None, ["docs ec26"]),
    "before text": (comment("/run docs\nThanks!"), "write", None, ["docs ec26"]),
    "Windows lines": (comment("Hi\r\n/run docs\r\n"), "write", None, ["docs ec26"]),
    "to a mention": (comment("@our-app /run docs"), "write", None, ["docs ec26"]),
    "to a bot": (comment("@our-app[bot], /run docs"), "write", None, ["docs ec26"]),
    "cancel": (comment("/cancel"), "write", None, ["cancel"]),
    "several": (
        comment("/run docs\n/run\n/cancel"),
        "write",
        None,
        ["docs ec26", *BOTH, "cancel"],
    ),
    "twice": (comment("/run docs\n/run docs"), "write", None, ["docs ec26"]),
    "its commit": (comment(f"/run docs {HEAD}"), "write", None, ["docs ec26"]),
    "its commit in capitals": (
        comment(f"/run {HEAD.upper()}"),
        "write",
        None,
        BOTH,
    ),
    # What is none
    "in a sentence": (comment("please /run docs"), "write", None, NOTHING),
    "with a sentence": (comment("/run docs when it is green"), "write", None, NOTHING),
    "mid-word": (comment("and/run docs"), "write", None, NOTHING),
    "part of a word": (comment("/runs docs"), "write", None, NOTHING),
    "a path": (comment("/run/docs"), "write", None, NOTHING),
    "quoted": (comment("> /run docs"), "write", None, NOTHING),
    "quoted twice": (comment(">> /run docs"), "write", None, NOTHING),
    "quoted lazily": (comment("> Did you say\n/run docs"), "write", None, NOTHING),
    "after a quotation": (
        comment("> Did you say\n\n/run docs"),
        "write",
        None,
        ["docs ec26"],
    ),
    "in a fence": (comment("```\n/run docs\n```"), "write", None, NOTHING),
    "in a fence of tildes": (comment("~~~sh\n/run docs\n~~~"), "write", None, NOTHING),
    "in an open fence": (comment("```\n/run docs"), "write", None, NOTHING),
    "in a longer fence": (comment("````\n```\n/run docs"), "write", None, NOTHING),
    "after a fence": (comment("```\nx\n```\n/run docs"), "write", None, ["docs ec26"]),
    "in code": (comment("`/run docs`"), "write", None, NOTHING),
    "indented code": (comment("    /run docs"), "write", None, NOTHING),
    "tabbed code": (comment("\t/run docs"), "write", None, NOTHING),
    "in a list": (comment("- /run docs"), "write", None, NOTHING),
    "in a fence of a list": (
        comment("1. ```\n   /run docs\n   ```"),
        "write",
        None,
        NOTHING,
    ),
    "after a fence of a list": (
        comment("- ```\n  x\n  ```\n/run docs"),
        "write",
        None,
        ["docs ec26"],
    ),
    "in a span over lines": (comment("`a\n/run docs\nb`"), "write", None, NOTHING),
    "after a span over lines": (
        comment("`a\nb`\n\n/run docs"),
        "write",
        None,
        ["docs ec26"],
    ),
    "in a pre": (comment("<pre>\n/run docs\n</pre>"), "write", None, NOTHING),
    "after a pre": (
        comment("<pre>\nx\n</pre>\n/run docs"),
        "write",
        None,
        ["docs ec26"],
    ),
    "an end that is code": (
        comment("```\n    ```\n/run docs"),
        "write",
        None,
        NOTHING,
    ),
    "hidden": (comment("<!-- \n/run docs\n-->"), "write", None, NOTHING),
    "hidden to the end": (comment("Hi <!--\n/run docs"), "write", None, NOTHING),
    "before a hidden hint": (
        comment("/run docs <!-- once -->"),
        "write",
        None,
        ["docs ec26"],
    ),
    "in the title of a reference": (
        comment('[a]: /x "title\n/run docs\nmore"'),
        "write",
        None,
        NOTHING,
    ),
    "in the title of a link": (
        comment('[a](/x "title\n/run docs\nmore")'),
        "write",
        None,
        NOTHING,
    ),
    "in the text of a link": (comment("[a\n/run docs\nb](/x)"), "write", None, NOTHING),
    "in the text of an image": (
        comment("![a\n/run docs\nb](/x)"),
        "write",
        None,
        NOTHING,
    ),
    "in a processing instruction": (
        comment("Hi <?x\n/run docs\n?>"),
        "write",
        None,
        NOTHING,
    ),
    "in a block of one": (comment("<?x\n/run docs\n?>"), "write", None, NOTHING),
    "in CDATA": (comment("Hi <![CDATA[\n/run docs\n]]>"), "write", None, NOTHING),
    "in a declaration": (comment("<!X\n/run docs\n>"), "write", None, NOTHING),
    "in an attribute": (
        comment('Hi <b title="\n/run docs\n">x</b>'),
        "write",
        None,
        NOTHING,
    ),
    "in an element over paragraphs": (
        comment("<code>\n\n/run docs\n\n</code>"),
        "write",
        None,
        NOTHING,
    ),
    **{
        f"in {start}": (
            comment(f"{start}\n\n/run docs\n\n{end}"),
            "write",
            None,
            NOTHING,
        )
        for start, end in (
            ("<details>\n<summary>old</summary>", "</details>"),
            ("<blockquote>", "</blockquote>"),
            ("<div hidden>", "</div>"),
            ("<div/>", "</div>"),
            ("<table><tr><td>", "</td></tr></table>"),
            ("<h1>", "</h1>"),
            ("<ul><li>", "</li></ul>"),
            ('<a href="https://x.example">', "</a>"),
            ("Old: <del>", "</del>"),
            ("<unknown>", "</unknown>"),
            # Unclosed, unfinished, or closed where it doesn't count
            ("<div><p></div>", ""),
            ("<div", ">"),
            ('<div title="', '">'),
            ("<details>\n\n| a |\n| --- |\n| </details> |", ""),
            ("<!--> <div hidden> -->", "</div>"),
            ("<!-- --!> <div hidden> -->", "</div>"),
            ("<![CDATA[ > <div hidden> ]]>", "</div>"),
        )
    },
    **{
        f"after {html}": (comment(f"{html}\n\n/run docs"), "write", None, ["docs ec26"])
        for html in (
            "<details>\n<summary>old</summary>\n\nlog\n\n</details>",
            'Hi <b>you</b><br> <img src="x">',
            "<hr>",
            "- <b>x</b>",
            "> <details>\n> x\n> </details>",
            "<script>\nif (a < b && c) {}\n</script>",
            "<!-- AT&T > x -->",
            "</div>",
        )
    },
    "in a footnote": (comment("[^1]: Hi\n/run docs"), "write", None, NOTHING),
    "struck out": (comment("~~a\n/run docs\nb~~"), "write", None, NOTHING),
    "in a table": (comment("| a |\n| --- |\n/run docs"), "write", None, NOTHING),
    "as a heading": (comment("/run docs\n==="), "write", None, NOTHING),
    "escaped": (comment("\\/run docs"), "write", None, NOTHING),
    "encoded": (comment("&#47;run docs"), "write", None, NOTHING),
    "with more markup than people write": (
        comment("[" * 5001 + "\n\n/run docs"),
        "write",
        None,
        NOTHING,
    ),
    "half a commit": (comment("/run docs ec26c3e"), "write", None, NOTHING),
    "cancel with more": (comment("/cancel docs"), "write", None, NOTHING),
    "another command": (comment("/deploy"), "write", None, NOTHING),
    "no such rule": (comment("/run nothing"), "write", None, NOTHING),
    "empty": (comment(""), "write", None, NOTHING),
    # Who says it
    "by a bot": (comment("/run docs", kind="Bot"), "admin", None, NOTHING),
    "by ourselves": (comment("/run docs", app=APP), "admin", None, NOTHING),
    "with our mark": (comment(f"{OUR_MARK}\n/run docs"), "admin", None, NOTHING),
    "by another App": (comment("/run docs", app=5), "write", None, ["docs ec26"]),
    "edited": (comment("/run docs", action="edited"), "admin", None, NOTHING),
    "deleted": (comment("/run docs", action="deleted"), "admin", None, NOTHING),
    "by a reader": (comment("/run"), "read", None, ["denied", "denied"]),
    "by nobody": (comment("/run"), "none", None, ["denied", "denied"]),
    "by an unknown role": (comment("/run"), "wizard", None, ["denied", "denied"]),
    "a reader may": (comment("/run docs"), "read", None, ["docs ec26"]),
    "a writer may not": (comment("/run deploy"), "write", None, ["denied"]),
    "a maintainer may": (comment("/run deploy"), "maintain", None, ["deploy ec26"]),
    "an admin may": (comment("/run deploy"), "admin", None, ["deploy ec26"]),
    "cancel by a reader": (comment("/cancel"), "triage", None, ["denied"]),
    # For what
    "another commit": (comment(f"/run docs {OTHER}"), "admin", None, ["docs: no"]),
    "closed": (comment("/run docs"), "write", pull(state="closed"), ["docs: no"]),
    "a draft": (comment("/run"), "write", pull(draft=True), ["tests: no", "lint: no"]),
    "a draft that counts": (
        comment("/run docs"),
        "write",
        pull(draft=True),
        ["docs ec26"],
    ),
    "a fork": (comment("/run"), "write", FORK, ["tests: no", "lint: no"]),
    "a fork's commit": (
        comment(f"/run {HEAD}"),
        "write",
        FORK,
        ["tests ec26 fork", "lint: no"],
    ),
    "a fork's old commit": (
        comment(f"/run {OTHER}"),
        "write",
        FORK,
        ["tests: no", "lint: no"],
    ),
    "a fork by a reader": (comment(f"/run docs {HEAD}"), "read", FORK, ["denied"]),
    "a fork by command": (
        comment(f"/run docs {HEAD}"),
        "write",
        FORK,
        ["docs ec26 fork"],
    ),
    "a fork by a command not for forks": (
        comment(f"/run deploy {HEAD}"),
        "admin",
        FORK,
        ["deploy: no"],
    ),
    "under an issue": (comment("/run triage", on="issue"), "triage", None, ["triage"]),
    "a pull request's under an issue": (
        comment("/run docs", on="issue"),
        "admin",
        None,
        NOTHING,
    ),
    "an issue's under a pull request": (comment("/run triage"), "admin", None, NOTHING),
    "without a name under an issue": (
        comment("/run", on="issue"),
        "admin",
        None,
        NOTHING,
    ),
    "a commit under an issue": (
        comment(f"/run triage {OTHER}", on="issue"),
        "admin",
        None,
        ["triage: no"],
    ),
    "cancel under an issue": (
        comment("/cancel", on="issue"),
        "write",
        None,
        ["cancel"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_comment_is_decided_as_documented(case: str) -> None:
    payload, permission, now, expected = CASES[case]

    assert decided(payload, permission, now) == expected


def test_no_more_than_ten_commands_of_a_comment_count() -> None:
    body = "\n".join(f"/run n{number}" for number in range(50))

    assert len(commands(body)) == MOST_COMMANDS == 10


def test_a_fork_is_what_does_not_certainly_have_the_bases_repository() -> None:
    gone, strange, unknown = pull(), pull(), pull()
    gone["head"]["repo"] = None
    strange["head"] = "?"
    unknown["head"]["repo"] = unknown["base"]["repo"] = None
    renamed = pull()
    renamed["head"]["repo"]["full_name"] = "another/name"

    answers = [
        decided(comment("/run docs"), of=each)
        for each in (gone, strange, unknown, renamed)
    ]

    assert answers == [*[["docs: no"]] * 3, ["docs ec26"]]


def test_every_permission_includes_those_below_it() -> None:
    for index, held in enumerate(Permission):
        for other, needed in enumerate(Permission):
            assert may(held.value, needed) is (index >= other)


@given(st.text())
def test_any_text_is_read(body: str) -> None:
    assert len(commands(body)) <= MOST_COMMANDS


@given(
    st.lists(st.sampled_from(["> ", "    ", "\t", "- ", "x", "`"]), min_size=1).map(
        "".join
    )
)
def test_what_stands_before_a_command_makes_it_none(before: str) -> None:
    assert commands(f"{before}/run docs") == []


@given(
    st.sampled_from(["run", "RUN", "Run"]),
    st.from_regex(r"[a-z][a-z0-9_-]{0,39}", fullmatch=True),
)
def test_a_name_is_read_as_it_is(verb: str, name: str) -> None:
    [found] = commands(f"/{verb} {name}")

    if len(name) == 40 and set(name) <= set("0123456789abcdef"):
        assert found.sha == name
    else:
        assert found == Command(verb=found.verb, name=name)


@pytest.mark.parametrize(
    ("line", "choice", "note"),
    [
        ("/resolve retry", "retry", ""),
        ("  /Resolve FAILED", "fail", ""),
        ("/resolve fail  no   luck ", "fail", "no luck"),
        ("@our-ci, /resolve succeeded so be it", "succeed", "so be it"),
        ("/resolve succeed " + "x" * 2000, "succeed", "x" * 1000),
    ],
)
def test_a_decision_is_a_line_of_its_own_with_a_note(
    line: str, choice: str, note: str
) -> None:
    expected = Command(verb=Verb.RESOLVE, choice=choice, note=note)

    assert commands(f"Looked.\n\n{line}\n") == [expected]


@pytest.mark.parametrize(
    "body",
    [
        *("/resolve", "/resolve it", "/resolve retried", "/resolve retryed"),
        *("please /resolve retry", "- /resolve retry", "    /resolve retry"),
        *("> /resolve retry", "`/resolve retry`", "<!-- \n/resolve retry\n-->"),
        *("/resolve retry **now**", "/resolve retry [x](y)", "/resolve\nretry"),
    ],
)
def test_what_only_looks_like_a_decision_is_none(body: str) -> None:
    assert commands(body) == []
