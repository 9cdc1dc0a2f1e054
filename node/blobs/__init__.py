"""Content too large for a message: kept by its hash, in chunks, for whoever the message reaches."""
