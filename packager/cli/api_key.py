"""The API key that commands send to a server."""

from ..environ import API_KEY
from ..errors import SettingError


def api_key() -> str:
    """What PACKAGER_API_KEY has, or an empty string. Raises SettingError, which does not show it, for what no header holds."""
    key = API_KEY.get().strip()
    if key and not is_key(key):
        raise SettingError("this is no API key", where=API_KEY.name, mend="set it to ASCII on one line, or unset it")
    return key


def is_key(text: str) -> bool:
    """Whether a request's header can hold it."""
    return text.isascii() and text.isprintable() and text != ""
