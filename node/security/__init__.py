"""Node identity, the cluster authority, credentials, tokens and permissions."""
