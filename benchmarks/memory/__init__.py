"""Memory on real text: what embedding, searching and replicating it cost."""
