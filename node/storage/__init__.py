"""SQLite: one writer with group commit, one reader, migrations, and the tables as plain functions."""

from node.storage.storage import Design, Storage

__all__ = ["Design", "Storage"]
