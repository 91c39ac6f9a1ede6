"""Redaction: no secret leaves the machine, and no text is longer than its reader accepts.

Texts go in as they were written. They come out with a mark in place of each secret (`redactor`), or cut (`truncate`).
"""
