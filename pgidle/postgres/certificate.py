"""A self-signed certificate for Postgres, made once by the program `openssl`.

It is not a certificate authority, and says so (CA:FALSE): some clients refuse an authority's certificate from a server,
and all accept this one both as the server's certificate and as the root that they verify it with. It has no keyUsage,
because with one that lacks keyCertSign OpenSSL would not take it as self-signed (X509v3 check of KU_KEY_CERT_SIGN).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgidle.base.errors import PgidleError, SettingsError
from pgidle.postgres.tls import CERTIFICATE, EXPIRES, FOLDER, KEY
from pgidle.system.users import for_children

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgidle.postgres.programs import Binaries

DAYS = 3650
PATIENCE = 30.0
"""Seconds after which a program is taken to hang."""
LONGEST_NAME = 64
"""Bytes that a common name may have (RFC 5280, ub-common-name)."""
CONFIG = """
[req]
distinguished_name = subject
x509_extensions = extensions
prompt = no
string_mask = utf8only
[subject]
CN = {name}
[extensions]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
extendedKeyUsage = serverAuth
subjectAltName = {alternatives}
"""


def refuse_unfit(
    binaries: Binaries, data_dir: str, postgres_args: Sequence[str], is_first_start: bool
) -> None:
    """Raise PgidleError if Postgres was built without TLS, or is already configured to use a certificate."""
    if not is_first_start and _ask(binaries, "ssl", "-D", data_dir, *postgres_args) == "on":
        named = _ask(binaries, "ssl_cert_file", "-D", data_dir, *postgres_args)
        raise SettingsError(
            f"--tls self-signed: Postgres's configuration already has ssl = on, with {named}",
            "leave --tls out, or set ssl = off there",
        )
    # Asked without the configuration, which does not exist yet on a first start.
    if _ask(binaries, "ssl_library", "-D", data_dir, "-c", f"config_file={os.devnull}") == "":
        raise PgidleError(
            f"--tls self-signed: {binaries.path('postgres')} was built without TLS",
            "install a PostgreSQL that has it (Debian's has), or leave --tls out",
        )


def make(data_dir: str, environ: Mapping[str, str]) -> str:
    """Make key and certificate, both or neither, and return the line to log. Raises PgidleError.

    Run as Postgres's user, who owns the files. Existing ones are replaced.
    """
    folder = Path(data_dir, FOLDER)
    new, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    names = _names(environ)
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        for leftover in (new, old):
            _remove(leftover)
        new.mkdir(mode=0o700)
        try:
            expires = _write(new, names)
            # A folder is renamed as a whole: never a certificate beside another's key.
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)
            _sync(folder.parent)
        finally:
            for leftover in (new, old):
                _remove(leftover)
    except OSError as fault:
        raise PgidleError(
            f"cannot make the certificate {folder / CERTIFICATE}: {fault.strerror}", "fix that"
        ) from None
    day = time.strftime("%Y-%m-%d", time.gmtime(expires))
    return f"made a self-signed certificate, {folder / CERTIFICATE}, for {', '.join(names)}, until {day}"


def _remove(path: Path) -> None:
    """Remove the path, whatever it is: anything but a folder would be in the way of every later one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _names(environ: Mapping[str, str]) -> list[str]:
    """The names that clients may use for this server: the machine's, on Fly.io the app's, and those of loopback."""
    app = environ.get("FLY_APP_NAME", "")
    names = [
        socket.gethostname(),
        *(f"{app}.{domain}" for domain in ("flycast", "internal", "fly.dev") if app),
    ]
    return [*(name for name in dict.fromkeys(names) if _is_dns_name(name)), "localhost", "127.0.0.1", "::1"]


def _is_dns_name(name: str) -> bool:
    plain = name.replace("-", "").replace(".", "")
    return name != "localhost" and len(name) <= LONGEST_NAME and plain.isascii() and plain.isalnum()


def _write(folder: Path, names: Sequence[str]) -> int:
    """Write the key, the certificate and its expiry time, which is also returned (seconds since 1970)."""
    kinds = ("IP" if ":" in name or name == "127.0.0.1" else "DNS" for name in names)
    alternatives = ", ".join(f"{kind}:{name}" for kind, name in zip(kinds, names, strict=True))
    config = folder / "openssl.cnf"
    config.write_text(CONFIG.format(name=names[0], alternatives=alternatives))
    expires = int(time.time()) + DAYS * 86_400
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        *("req", "-x509", *ec, "-sha256", "-days", str(DAYS), "-config", str(config)),
        *("-keyout", str(folder / KEY), "-out", str(folder / CERTIFICATE)),
    )
    config.unlink()
    folder.joinpath(EXPIRES).write_text(f"{expires}\n")
    for name in (KEY, CERTIFICATE, EXPIRES):
        folder.joinpath(name).chmod(0o600)
        _sync(folder / name)
    _sync(folder)
    return expires


def _openssl(*arguments: str) -> None:
    try:
        ran = _run("openssl", *arguments)
    except FileNotFoundError:
        raise PgidleError(
            "--tls self-signed needs the program openssl, which is not on PATH",
            "install it (Debian: apt-get install openssl), or leave --tls out",
        ) from None
    if ran.returncode:
        said = " ".join((ran.stderr or ran.stdout).split()[-30:])
        raise PgidleError(f"openssl could not make the certificate: {said}", "fix that, or leave --tls out")


def _ask(binaries: Binaries, parameter: str, *arguments: str) -> str | None:
    """One of Postgres's parameters; None if Postgres does not answer: then its own start says what is wrong."""
    ran = _run(binaries.path("postgres"), "-C", parameter, *arguments)
    return ran.stdout.strip() if ran.returncode == 0 else None


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=for_children(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise PgidleError(f"{command[0]} did not end within {PATIENCE:.0f} s", "run it by hand") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
