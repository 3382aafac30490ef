"""How much memory a model takes: its weights, its key-value cache, and what an engine needs beside them. Pure."""
