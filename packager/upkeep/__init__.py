"""The store's upkeep: what is in it, whether it is intact, and what may go."""
