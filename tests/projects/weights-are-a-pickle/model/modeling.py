"""Code that a model repository brings."""
