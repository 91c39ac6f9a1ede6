"""Intake mode on disk: a drain or pause lasts over restarts until it is ended."""

import json
from pathlib import Path
from typing import Final

from attrs import frozen

from dispatchd.agent.domain.intake import Intake
from dispatchd.agent.store.durable import put_file
from dispatchd.errors import RecordUnreadable
from dispatchd.linux.untrusted_files import read_text
from dispatchd.protocol.conversion import strict_converter

_FILE: Final = "intake.json"
_DAMAGED: Final = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""Errors of reading a file that holds something else."""

_SCHEMA_VERSION: Final = 1

_converter: Final = strict_converter(forbid_extra_keys=True, detailed_validation=False)


@frozen
class IntakeStore:
    """The file `intake.json` of a state folder, mode 0600. Calls block."""

    _folder: Path

    def load(self) -> Intake:
        """Return the stored mode, or that jobs are taken.

        Raises:
            RecordUnreadable: The file can't be understood.
        """
        file = self._folder / _FILE
        try:
            document = json.loads(read_text(file))
            if document.pop("schema_version") != _SCHEMA_VERSION:
                raise RecordUnreadable(path=file, reason="of another schema_version")
            return _converter.structure(document, Intake)
        except FileNotFoundError:
            return Intake()
        except OSError as error:
            raise RecordUnreadable(path=file, reason=str(error.strerror)) from error
        except _DAMAGED as error:
            raise RecordUnreadable(path=file, reason="not an intake record") from error

    def keep(self, intake: Intake) -> None:
        """Store the intake mode durably.

        Raises:
            StoreUnavailable: The disk refuses.
        """
        document = {"schema_version": _SCHEMA_VERSION, **_converter.unstructure(intake)}
        put_file(self._folder, _FILE, json.dumps(document, indent=1).encode())
