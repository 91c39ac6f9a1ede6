"""The client of a hub for programs: a job is submitted, waited for, watched and ended by calls of Python.

Data goes from the clients (`hub.py`, `async_hub.py`) through operations, which are generators of steps, to the connection.
"""

from dispatchd.client.async_hub import AsyncHub
from dispatchd.client.errors import (
    AnswerLost,
    BytesDiffer,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    InvalidCall,
    InvalidSetup,
    NotAHub,
    NotFound,
    NotStored,
    PathTaken,
    Refused,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from dispatchd.client.hub import Hub
from dispatchd.client.records import Artifact, Job, JobState, LogPiece

__all__ = [
    "AnswerLost",
    "Artifact",
    "AsyncHub",
    "BytesDiffer",
    "ClientError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Hub",
    "InvalidCall",
    "InvalidSetup",
    "Job",
    "JobState",
    "LogPiece",
    "NotAHub",
    "NotFound",
    "NotStored",
    "PathTaken",
    "Refused",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "WaitTimeout",
]
