"""The Python side of an image: resolve wheels, fetch them, say what each one installs and which wins."""
