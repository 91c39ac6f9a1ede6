"""Redaction: no secret leaves the machine, and no text is longer than its reader takes.

Texts go in as they were written; they come out with a mark where a secret stood (`redactor`), or cut (`truncate`).
"""
