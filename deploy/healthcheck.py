"""The images' HEALTHCHECK: asks the metrics port whether this server is ready, with nothing but Python's own library.

Ready means that every model loaded and that the server is not draining. It must never import `server`: starting an
interpreter every ten seconds should cost milliseconds.
"""

import http.client
import os
import sys


def ready(port: int) -> bool:
    """Return whether /readyz on this machine answers 200 within two seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not ready(int(os.environ.get("SLUICE_METRICS_PORT", "8002"))))
