"""The command line: one file per command. Nothing else in packager prints or exits."""
