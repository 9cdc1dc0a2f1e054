"""What agents remember: entities, observations and relations in SQLite, searched by meaning and by words."""
