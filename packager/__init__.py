"""packager turns a model spec into a self-contained package and a reproducible image."""
