"""Secrets that this daemon knows at the moment, and the redactor for all of them.

Every part that lets text leave the machine uses it: log lines, summaries, reports, heartbeats.
"""

from collections.abc import Iterable

from attrs import define, field

from dispatchd.redaction.redactor import Redactor, SecretForms


@define(repr=False)
class KnownSecrets:
    """Secret values by owner: the machine's own, and those of each live run."""

    _by_owner: dict[str, frozenset[str]] = field(factory=dict)
    _forms: dict[str, SecretForms] = field(factory=dict, init=False)
    """Forms of each value that is known."""
    _redactor: Redactor = field(factory=lambda: Redactor.of(()), init=False)

    def know(self, owner: str, values: Iterable[str]) -> None:
        """Add to an owner's secrets."""
        known = self._by_owner.get(owner, frozenset())
        new = known.union(values)
        self._by_owner[owner] = new
        if new != known:
            self._renew()

    def forget(self, owner: str) -> None:
        """Forget an owner's secrets; an owner without any is fine."""
        if self._by_owner.pop(owner, None):
            self._renew()

    def knows(self, owner: str) -> bool:
        """Return whether an owner's secrets are known, even if it has none."""
        return owner in self._by_owner

    def scrub(self, text: str) -> str:
        """Return a text without any known secret, and without anything in the form of a credential."""
        return self._redactor.scrub(text)

    @property
    def redactor(self) -> Redactor:
        """Redactor of all secrets known now."""
        return self._redactor

    def _renew(self) -> None:
        everything = {value for values in self._by_owner.values() for value in values}
        before = self._forms
        self._forms = {
            value: before.get(value) or SecretForms.of(value) for value in everything
        }
        # One assignment: another thread that writes a line gets the old redactor or the new one.
        self._redactor = Redactor.of_forms(self._forms.values())
