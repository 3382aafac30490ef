"""Who is told how a load goes."""


class Watch:
    """Tells nobody; the base of those that do. Methods may be called from any thread."""

    def phase(self, name: str) -> None:
        """A phase begins, and the one before it is done: `resolve`, `download`, `verify`."""

    def on_bytes(self, title: str, done: int, total: int) -> None:
        """`done` of `total` bytes of one transfer or check: of a file, or of all there is to do."""

    def retried(self, title: str, why: str) -> None:
        """A transfer broke off and is tried again."""


SILENT = Watch()
