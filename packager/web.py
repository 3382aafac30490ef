"""httpx's client, with what the environment says of proxies and certificates refused in our words.

Weights come over connections of their own (`packager.weights.http_connection`).
"""

from typing import Any

import httpx

from .errors import SettingError


def open_client(**settings: Any) -> httpx.Client:
    """httpx.Client with these settings. Raises SettingError where the environment names what it cannot use."""
    try:
        return httpx.Client(**settings)
    except (ImportError, ValueError, httpx.InvalidURL) as error:  # in order: SOCKS, no scheme of a proxy's, no address
        reason = "SOCKS is not spoken here" if isinstance(error, ImportError) else str(error)
        what, where = "the proxy that the environment names cannot be used", "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
        mend = "name one as http://HOST:PORT, or use NO_PROXY"
        raise SettingError(f"{what}: {reason}", where=where, mend=mend) from None
    except OSError as error:
        what = f"the certificates that the environment names cannot be read: {error.strerror or error}"
        mend = "name a file of certificates (PEM), or unset it"
        raise SettingError(what, where="SSL_CERT_FILE", mend=mend) from None
