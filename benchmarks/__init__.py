"""Measurements of Caxton, each with its re-run command and its raw results; see README.md."""
