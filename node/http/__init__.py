"""The admin API of a node: FastAPI on Hypercorn's Trio worker, below /api/v1."""
