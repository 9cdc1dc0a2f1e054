"""What simulating whole nodes costs, and how soon a failure has become small enough to read."""
