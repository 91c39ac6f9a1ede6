import pytest

from dispatchd.domain.redaction import MARK, scrub


@pytest.mark.parametrize(
    ("text", "secrets", "clean"),
    [
        ("a secret-1 and more", {"secret-1"}, f"a {MARK} and more"),
        (
            "a secret-1 and secret-12",
            {"secret-1", "secret-12"},
            f"a {MARK} and {MARK}",
        ),
        ("secret-1secret-1", {"secret-1"}, MARK * 2),
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
