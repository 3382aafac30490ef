"""Checks of many files are told as one."""

from packager.manifest import WeightsFile
from packager.weights.watch import ALL, Checks, Watch


class Heard(Watch):
    def __init__(self):
        self.seen = []

    def on_bytes(self, title, done, total):
        self.seen.append((title, done, total))


def test_bytes_of_all_files_and_the_end_of_each():
    heard, files = Heard(), [WeightsFile("a", 10, ""), WeightsFile("sub/b", 5, "")]
    checks = Checks(heard, files)

    def read(told):
        told("verify 0123", 6, 10)
        told("verify 0123", 10, 10)
        return "found"

    assert checks.run(files[0], read) == "found"
    assert heard.seen == [(ALL, 6, 15), (ALL, 10, 15), (ALL, 10, 15), ("verify a", 10, 10)]
    heard.seen.clear()
    assert checks.run(files[1], lambda _: None) is None
    assert heard.seen == [(ALL, 10, 10)], "what has not to be read is not to be done"


def test_nothing_is_told_where_nothing_is_read():
    heard, file = Heard(), WeightsFile("a", 10, "")
    Checks(heard, [file]).run(file, lambda _: None)
    assert heard.seen == []
