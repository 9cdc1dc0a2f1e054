"""Vectors in a Qdrant server; everything else, and all that they are made of, stays in the node's file."""
