"""The ``caxton`` command: verbs in modules of their own, imported only when they are used."""
