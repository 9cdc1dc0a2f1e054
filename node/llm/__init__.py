"""Language-model providers; the default one is offline and deterministic."""
