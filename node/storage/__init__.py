"""The SQLite writer with group commit, readers, migrations, and the tables of every room."""
