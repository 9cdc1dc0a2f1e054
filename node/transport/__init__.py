"""TLS 1.3 peer links: frames, batches, acknowledgements."""
