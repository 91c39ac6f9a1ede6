import base64
import json
import time
from urllib.parse import quote

import pytest

from dispatchd.redaction.redactor import (
    MARK,
    REPORTED,
    Redactor,
    reported_tail,
    scrub,
)
from dispatchd.redaction.stream import StreamRedactor

NOTHING = Redactor.of(())
GITHUB = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJqdGkiOiJsaWMtMSJ9.c2lnbmF0dXJlLW9mLWl0"
BODY = "MC4CAQAwBQYDK2VwBCIEIG1GIz0N3nSBAJ8zxRXtAAAAdHVyZS1vZi1pdAAA"
PEM = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n{BODY[:20]}\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secrets", "clean"),
    [
        ("a secret-1 and more", {"secret-1"}, f"a {MARK} and more"),
        (
            "a secret-1 and secret-12",
            {"secret-1", "secret-12"},
            f"a {MARK} and {MARK}",
        ),
        ("secret-1secret-1", {"secret-1"}, MARK),
        ("x abcdefghi y", {"abcdef", "defghi"}, f"x {MARK} y"),
        ("x abcdefghij y", {"abcdefghij", "bcdefgh"}, f"x {MARK} y"),
        ("x aaaaaaaaa y", {"aaaaaa"}, f"x {MARK} y"),
        ("only secret-1", {"secret-1", "secret-2"}, f"only {MARK}"),
        ("first\nline-two", {"first\nline-two"}, MARK),
        ("the word redacted", {"redacted"}, f"the word {MARK}"),
        ("nothing known", set(), "nothing known"),
        ("", {"secret-1"}, ""),
    ],
)
def test_known_secrets_are_taken_out(text: str, secrets: set[str], clean: str) -> None:
    assert scrub(text, secrets) == clean


def test_a_short_value_is_left_alone() -> None:
    assert scrub("the main branch", {"main", "", "a b"}) == "the main branch"


def test_six_characters_are_enough() -> None:
    assert scrub("x 123456 y", {"123456"}) == f"x {MARK} y"


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(b"hunter2-hunter2").decode(),
        base64.b64encode(b"user:hunter2-hunter2").decode(),
        base64.b64encode(b"u:hunter2-hunter2 and more").decode(),
        base64.urlsafe_b64encode(b"xx:hunter2-hunter2?>").decode(),
        quote("hunter2-hunter2"),
        json.dumps({"a": "hunter2-hunter2"}),
    ],
)
def test_an_encoded_secret_is_taken_out(text: str) -> None:
    clean = scrub(text, {"hunter2-hunter2"})

    assert MARK in clean
    # At most a character at each end also depends on what stands beside it.
    assert len(clean.replace(MARK, "")) <= len(text) - len("hunter2-hunter2")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:pass@host/x", f"https://{MARK}@host/x"),
        ("git clone http://t0ken@host:80/o/r", f"git clone http://{MARK}@host:80/o/r"),
        ("x-access-token:abc123 x", f"x-access-token:{MARK} x"),
        (f"got {GITHUB}!", f"got {MARK}!"),
        ("ghs_abc.def-ghi_jkl.mno-pqr_stu", MARK),
        ("github_pat_11ABCDEFG0abcdefghij_klmnopq", MARK),
        (f"jwt={JWT};", f"jwt={MARK};"),
        (PEM, MARK),
        (f"x {PEM} y", f"x {MARK} y"),
        (PEM.replace("\n", "\\n"), MARK),
        (f"{BODY}\n-----END PRIVATE KEY-----\nok", f"{MARK}\nok"),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n{BODY}", MARK),
        ("Authorization: Bearer abc", f"Authorization: Bearer {MARK}"),
        (
            "curl -H 'authorization: token abc'",
            f"curl -H 'authorization: token {MARK}'",
        ),
        ("sent Bearer abcdef0123456789", f"sent Bearer {MARK}"),
        ("Cookie: a=b; c=d", f"Cookie: {MARK}"),
        ("PASSWORD=hunter2", f"PASSWORD={MARK}"),
        ("export GITHUB_TOKEN=abc", f"export GITHUB_TOKEN={MARK}"),
        ("?api_key=abc&x=1", f"?api_key={MARK}&x=1"),
        ("password: hunter2", f"password: {MARK}"),
        ("  - password: correct horse battery", f"  - password: {MARK}"),
        (
            '{"client_secret": "abc def", "a": 1}',
            f'{{"client_secret": "{MARK}", "a": 1}}',
        ),
        ("{'token': 'abc'}", f"{{'token': '{MARK}'}}"),
        (r"{\"token\": \"abc\"}", rf"{{\"token\": \"{MARK}\"}}"),
        ("accessToken: abc", f"accessToken: {MARK}"),
        ("AWS_SECRET_ACCESS_KEY = abc", f"AWS_SECRET_ACCESS_KEY = {MARK}"),
        ("db.password=abc", f"db.password={MARK}"),
        ('secret = "a b c"', f'secret = "{MARK}"'),
        ("UID=sa;PWD=hunter2", f"UID=sa;PWD={MARK}"),
        ("DB_PWD=/hunter2", f"DB_PWD={MARK}"),
        ("OLDPWD=/a PGPWD=x", f"OLDPWD=/a PGPWD={MARK}"),
    ],
)
def test_what_has_the_form_of_a_credential_is_taken_out(text: str, clean: str) -> None:
    assert NOTHING.scrub(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Author: Jane Doe <jane@example.com>",
        "Authored-by: jane@example.com",
        "Co-authored-by: Jane <jane@example.com>",
        "mail jane@example.com about https://example.com/a@b",
        "https://example.com/path?q=1#frag@x",
        "git@github.com:o/r.git",
        "monkey=banana",
        "key: value",
        "max_tokens=4096 tokens: 123 token_count=12",
        "error: unexpected token: foo",
        "the password: ask Jane for it",
        "password=",
        "password=$PASSWORD",
        "token: ${{ secrets.TOKEN }}",
        "token = null",
        "PASSWORD=***",
        "token=<your token>",
        "if token == expected",
        "std::token::next",
        "basic understanding of internationalization",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "ghp_short eyJ.eyJ.x",
        "commit ec26c3e57ca3a959ca5aad62de7213c562f8c821",
        f"password={MARK}",
        "secretary: Jane; tokenizer=fast; authority: me",
        "PWD=/home/ci/runs/j/workspace",
        "HOME=/root\nPWD=/root\nOLDPWD=/home/ci\n",
        'declare -x OLDPWD\ndeclare -x PWD="/builds/x"',
        '{"PWD": "/builds/x", "OLDPWD": "C:\\\\x"}',
        r'"env: \nPWD=/x\nOLDPWD=y"',
        "PWD=",
        "OLDPWD=-",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert NOTHING.scrub(text) == text


def test_the_strings_of_a_json_secret_are_secrets_from_12_characters_on() -> None:
    secret = json.dumps(
        {"id": "short", "key": "a-long-enough-key", "in": [{"x": "another-long-one"}]}
    )

    clean = scrub("short a-long-enough-key another-long-one", {secret})

    assert clean == f"short {MARK} {MARK}"


def test_the_lines_of_a_secret_are_secrets_from_12_characters_on() -> None:
    secret = "first line of it\nend\nthird line of it\n"

    assert scrub("> first line of it\n> end", {secret}) == f"> {MARK}\n> end"
    assert scrub(secret.replace("\n", "\r\n"), {secret}) == MARK


def test_a_secret_with_other_line_ends_is_redacted_in_every_coding_too() -> None:
    secret = "first line\nand ends!"
    other = secret.replace("\n", "\r\n").encode()

    for coded in (base64.b64encode(other), other.hex().encode(), quote(other).encode()):
        assert scrub(f"> {coded.decode()}", {secret}) == f"> {MARK}"


def test_a_short_output_is_reported_whole() -> None:
    assert reported_tail("done\n", NOTHING) == "done\n"


def test_a_long_output_is_reported_from_its_end_with_what_was_cut() -> None:
    lines = "".join(f"line {number}\n" for number in range(10_000))

    told = reported_tail(lines, NOTHING)

    first, _, rest = told.partition("\n")
    assert lines.endswith(rest)
    assert rest.startswith("line ")
    assert REPORTED * 0.9 < len(rest) <= REPORTED
    assert first == (
        f"[... {len(lines) - len(rest):,} of {len(lines):,} characters cut ...]"
    )


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_secret_that_was_halved_before_the_text_is_taken_out(cut: int) -> None:
    secret = "a-secret-of-22-letters"

    told = reported_tail(secret[cut:] + " rest", Redactor.of([secret]), cut_before=99)

    assert secret[cut:] not in told
    assert told.endswith(" rest")


@pytest.mark.parametrize("size", [1, 7, 1000, 20_000])
def test_a_stream_is_scrubbed_across_its_cuts(size: int) -> None:
    secret = "a-secret-of-22-letters"
    text = ("x" * 997 + secret + " ") * 100 + PEM + "\n" + "y" * 30_000 + secret
    stream = StreamRedactor(Redactor.of([secret]))

    pieces = [stream.feed(text[at : at + size]) for at in range(0, len(text), size)]
    told = "".join([*pieces, stream.close()])

    assert told == Redactor.of([secret]).scrub(text)
    # It lets go of what is certain: nobody waits for the end of an hour's output.
    assert len("".join(pieces)) > len(text) / 2


@pytest.mark.parametrize("into", range(23))
def test_a_stream_is_never_cut_inside_a_secret(into: int) -> None:
    secret, held = "a-secret-of-22-letters", 8 * 1024
    stream = StreamRedactor(Redactor.of([secret]))
    # Where it would be cut for its length alone.
    first = "x" * (held - into) + secret
    text = first + "y" * (2 * held - len(first))

    told = stream.feed(text) + stream.close()

    assert told == Redactor.of([secret]).scrub(text)


@pytest.mark.parametrize("secret", ["a-secret-of-22-letters", "abababab", "aaaaaa"])
@pytest.mark.parametrize("size", [997, 16 * 1024, 1_000_000])
def test_a_stream_lets_none_of_a_repeated_secret_through(
    secret: str, size: int
) -> None:
    text = ("x " + secret * 5_000 + " " + secret + " y ") * 2
    stream = StreamRedactor(Redactor.of([secret]))

    told = "".join(
        stream.feed(text[at : at + size]) for at in range(0, len(text), size)
    )
    told += stream.close()

    assert told.replace(MARK, "").split() == ["x", "y", "x", "y"]


@pytest.mark.parametrize("token", [GITHUB, "github_pat_" + "a" * 30, JWT])
@pytest.mark.parametrize(
    "before", ["\\n", "\\t", "\\r\\n", "\\u001b", "%0A", "\\\\n", "="]
)
def test_a_token_is_found_right_after_an_escape(before: str, token: str) -> None:
    assert NOTHING.scrub(f'"log{before}{token}"') == f'"log{before}{MARK}"'


@pytest.mark.parametrize("key", ["password: ", "token: ", "API_KEY=", "secret = "])
@pytest.mark.parametrize("before", ["\\n", "\\r\\n", "\\n  "])
def test_a_key_is_found_on_a_line_inside_json(before: str, key: str) -> None:
    assert NOTHING.scrub(f'"log{before}{key}hunter2"') == f'"log{before}{key}{MARK}"'


@pytest.mark.parametrize(
    "text",
    [
        *("ghp_{}", "github_pat_{}", "https://x:{}@host/", "x-access-token:{}@host"),
        *("token={}", 'secret: "{}"', "Authorization: Bearer {}", "eyJhbGci.eyJ{}.sig"),
        *("password: {}", "Cookie: a={}", '{{\\"token\\": \\"{}\\"}}'),
    ],
)
def test_a_long_credential_leaves_no_rest(text: str) -> None:
    assert "aaaa" not in NOTHING.scrub(text.format("a" * 200_000))


@pytest.mark.parametrize("secret", ["a-secret-of-22-letters", "dGhpcyBpcyBhIHNlY3JldA"])
def test_a_known_value_is_found_over_several_lines(secret: str) -> None:
    folded = f"{secret[:8]}\n  {secret[8:16]}\r\n{secret[16:]}"
    escaped = f'"{secret[:8]}\\n{secret[8:]}"'

    assert scrub(f"> {folded} <", {secret}) == f"> {MARK} <"
    assert scrub(escaped, {secret}) == f'"{MARK}"'


@pytest.mark.parametrize(
    "hostile",
    [
        *("a", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "key="),
        *("token:", "://", "eyJ", ".", "@", "\\", '"', 'secret="', " ", "\n", "ghp_"),
        *("A\n", "://a@", "token='\\", "password: ", "bearer ", "eyJa.eyJa", "="),
        *("-", "[redacted]", "_-.", "token:\n", "secret: x ", "-----", "PRIVATE KEY"),
        *(
            "\x1b[",
            "\x1b]0;",
            "\x1b[maaaaaaa",
            "a\r",
            "%61",
            "\\u0041",
            "&#",
            "\n> ",
            "\na:",
        ),
        *("\n" + "a" * 40, "\u0301", "\u200bé", "'\\''", "\t", "\0", "OLDPWD", "\n10:"),
    ],
)
def test_hostile_text_is_done_before_long(hostile: str) -> None:
    text = hostile * (250_000 // len(hostile))
    redactor = Redactor.of(["aaaaaaa", "a-secret-of-22-letters"])
    # By this process's own time, whatever else its machine does: the worst takes 0.3 s.
    before_s = time.process_time()

    redactor.scrub(text)

    assert time.process_time() - before_s < 2
