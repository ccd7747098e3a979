"""The self-signed certificate: where it is, whether it is still valid, and how Postgres is configured to use it.

This runs in every wake and reads one small file. Certificates are made by `certificate`.
"""

from __future__ import annotations

import os

from pgidle.postgres.data_directory import OWN_FOLDER

FOLDER = f"{OWN_FOLDER}/tls"
"""In the data directory, wherever the state directory is: clients keep a copy, so it must live as long as the data."""
CERTIFICATE = "server.crt"
KEY = "server.key"
EXPIRES = "expires"
"""The expiry time, seconds since 1970, as text: reading it from the certificate would take a parser on every wake."""


def is_valid(data_dir: str, now: float) -> bool:
    """Whether there is a certificate with its key that has not expired. It is never replaced before that, so that
    clients' copies stay valid."""
    folder = f"{data_dir}/{FOLDER}"
    try:
        with open(f"{folder}/{EXPIRES}", "rb") as file:
            expires = int(file.read(24))
    except (OSError, ValueError):
        return False
    return now < expires and all(os.path.isfile(f"{folder}/{name}") for name in (CERTIFICATE, KEY))


def postgres_arguments(data_dir: str) -> tuple[str, ...]:
    """The arguments that make Postgres use the certificate."""
    folder = f"{data_dir}/{FOLDER}"
    files = (f"ssl_cert_file={folder}/{CERTIFICATE}", f"ssl_key_file={folder}/{KEY}")
    return ("-c", "ssl=on", "-c", files[0], "-c", files[1])
