"""Where a server keeps its edits: SQLite or PostgreSQL, with a history to which is only ever added."""
