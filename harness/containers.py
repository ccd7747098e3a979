"""The image, built without a container engine, and containers of it, run without one. Needs root and Debian's tools.

    with Container(image(), place.folder(), env={"POSTGRES_PASSWORD": "x"}) as one:
        one.wait_log("awake")

`python harness/containers.py` builds it and says how large it is; `scripts/image` does that where there is no engine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
CACHE = Path("/var/tmp/pgidle-image")
SUITE, MAJOR = "trixie", "17"
MIRROR = "http://deb.debian.org/debian"
BASE_CONFIG = (
    *(
        "--env",
        "LANG=C.UTF-8",
        "--env",
        f"PG_MAJOR={MAJOR}",
        "--env",
        f"PGDATA=/var/lib/postgresql/{MAJOR}/docker",
    ),
    *(
        "--env",
        f"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/{MAJOR}/bin",
    ),
    *("--volume", "/var/lib/postgresql", "--port", "5432", "--stop-signal", "SIGINT"),
    *("--entrypoint", '["docker-entrypoint.sh"]', "--cmd", '["postgres"]'),
)
"""What the official image's Dockerfile says about it."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATIENCE = 30.0
"""Seconds after which what has not happened never will."""


def missing() -> str:
    """What keeps the image from being built here; empty if nothing does."""
    if os.geteuid() != 0:
        return "an image is built by root only, where no container engine is"
    tools = [name for name in ("buildah", "debootstrap", "unshare", "nsenter") if not shutil.which(name)]
    return f"no {' and no '.join(tools)} (apt-get install buildah debootstrap)" if tools else ""


def buildah(*arguments: str, quiet: bool = True) -> str:
    """Run buildah on a storage of our own; its output. Raises SystemExit with what it said."""
    storage = CACHE / "storage"
    own = ("--root", str(storage / "root"), "--runroot", str(storage / "run"), "--storage-driver", _driver())
    done = subprocess.run(
        ["buildah", *own, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT if quiet else None, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"image: buildah {arguments[0]} failed:\n{done.stdout[-3000:]}")
    return done.stdout.strip()


@functools.cache
def _driver() -> str:
    """overlay, where the cache's file system can be its upper layer; else vfs, which copies everything."""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        for name in ("lower", "upper", "work", "merged"):
            Path(folder, name).mkdir()
        layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        command = ["unshare", "-m", "mount", "-t", "overlay", "-o", layers, "none", f"{folder}/merged"]
        return (
            "vfs" if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode else "overlay"
        )


def _say(text: str) -> None:
    print(f"image: {text}", file=sys.stderr, flush=True)  # noqa: T201


def build_base() -> str:
    """The stand-in for the official image, made once and kept. Its name."""
    files = sorted((HERE / "base_image").iterdir())
    stamp = "\n".join([SUITE, MAJOR, *(file.read_text() for file in files)])
    kept = CACHE / "base-stamp"
    name = f"localhost/pgidle-base:{MAJOR}"
    if kept.exists() and kept.read_text() == stamp:
        return name
    _say(f"making a base of Debian {SUITE} and PostgreSQL {MAJOR}")
    container = buildah("from", "scratch")
    try:
        # A mount namespace: whatever happens, no mount of it is left.
        done = subprocess.run(
            ["unshare", "-m", HERE / "base_image/make", buildah("mount", container), CACHE, SUITE, MIRROR],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"image: the base could not be made:\n{done.stdout[-3000:]}")
        buildah("config", *BASE_CONFIG, container)
        buildah("commit", "--format", "docker", container, name)
    finally:
        buildah("rm", container)
    kept.write_text(stamp)
    return name


def build(base: str) -> str:
    """The image on `base`, by the Dockerfile. Its name."""
    name = "localhost/pgidle"
    stamp = f"{base} {(CACHE / 'base-stamp').stat().st_mtime_ns} {_context()}"
    kept = CACHE / "stamp"
    if kept.exists() and kept.read_text() == stamp:
        return name
    _say("building the image")
    options = []
    if CERTIFICATES.exists():
        # Where the way to PyPI has a certificate of its own, this machine knows it and the base does not.
        options = ["--volume", f"{CERTIFICATES}:/run/certificates.pem:ro"]
        options += ["--build-arg", "PIP_CERT=/run/certificates.pem"]
    command = ("bud", "--isolation", "chroot", "--format", "docker", "--jobs", "2", "-t", name)
    buildah(*command, *options, "--build-arg", f"BASE={base}", str(HERE.parent))
    kept.write_text(stamp)
    return name


def _context() -> str:
    """What an image is made of, as a digest."""
    top = HERE.parent
    files = [top / name for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE")]
    files += [
        file for name in ("docker", "pgidle") for file in sorted((top / name).rglob("*")) if file.is_file()
    ]
    return hashlib.sha256(b"".join(b"%s %o\n%s" % (bytes(file), file.stat().st_mode, file.read_bytes())
                                   for file in files if file.suffix not in (".so", ".pyc"))).hexdigest()  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """An image, its root mounted read-only to us, and its configuration as Docker's `inspect` has it."""

    root: Path
    config: Mapping[str, Any]
    megabytes: float

    @property
    def env(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    @property
    def stop_signal(self) -> signal.Signals:
        return signal.Signals[self.config["StopSignal"]]


@contextlib.contextmanager
def mounted(name: str) -> Iterator[Image]:
    container = buildah("from", "--pull-never", name)
    try:
        config = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
        root = Path(buildah("mount", container))
        yield Image(root, config, size(root))
    finally:
        buildah("rm", container)


def size(root: Path) -> float:
    """Megabytes (10^6 bytes) of the files below a folder, each counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, files in os.walk(root):
        for file in files:
            found = os.lstat(f"{folder}/{file}")
            # Of the others an overlay's numbers need not be unique.
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_size
    return total / 1e6


class Container:
    """A container: a PID, mount, IPC and UTS namespace, in the caller's network. Its root is kept in memory only.

    `words` follow the image's name on `docker run`; `volumes` are folders by where they are mounted; the
    volumes that the image declares are folders of `work`, and stay for the next container with the same.
    """

    def __init__(
        self,
        image: Image,
        work: Path,
        *words: str,
        env: Mapping[str, str] = MappingProxyType({}),
        user: tuple[int, int] = (0, 0),
        volumes: Mapping[str, Path] | None = None,
        tmpfs: Sequence[str] = (),
        read_only: bool = False,
        entrypoint: Sequence[str] | None = None,
    ) -> None:
        self.image, self.env, self.user = image, image.env | dict(env), user
        self.lines: list[str] = []
        if volumes is None:
            volumes = {
                name: work / "volumes" / name.strip("/").replace("/", "-") for name in image.config["Volumes"]
            }
        for name, folder in volumes.items():
            if not folder.exists():
                # As an engine does: a new volume is a copy of what the image has there.
                folder.parent.mkdir(parents=True, exist_ok=True)
                source = image.root / name.lstrip("/")
                subprocess.run(
                    ["cp", "-a", source, folder] if source.exists() else ["mkdir", folder], check=True
                )
        root = work / "root"
        root.mkdir(exist_ok=True)
        command = [*(image.config["Entrypoint"] if entrypoint is None else entrypoint)]
        specification = {
            "image": str(image.root),
            "work": str(root),
            "volumes": {name: str(folder) for name, folder in volumes.items()},
            "tmpfs": list(tmpfs),
            "read_only": read_only,
            "env": self.env,
            "user": user,
            "command": [*command, *(words or image.config["Cmd"])],
        }
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child", "--",
             sys.executable, "-I", str(HERE / "engine.py"), json.dumps(specification)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={"PATH": os.defpath},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(self.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()
        self._reader.join(5)

    @functools.cached_property
    def pid(self) -> int:
        """Its first process, as numbered out here."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        until = time.monotonic() + PATIENCE
        while not (found := children.read_text().split()):
            assert time.monotonic() < until, "it did not start"
            time.sleep(0.002)
        return int(found[0])

    @property
    def began(self) -> float:
        """When the entrypoint was run, by time.monotonic()."""
        return float(self.wait_log("engine: ").removeprefix("engine: "))

    def wait(self) -> int:
        """Its exit status, once everything that it wrote was read."""
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running: {self.text}") from None
        self._reader.join(5)
        return status

    def stop(self, number: int | None = None) -> int:
        """What `docker stop` does first, and the exit status."""
        os.kill(self.pid, number or self.image.stop_signal)
        return self.wait()

    def exec(self, *command: str, user: tuple[int, int] | None = None) -> subprocess.CompletedProcess[str]:
        """As `docker exec`: another process in the container, with the container's environment."""
        uid, gid = user or self.user
        return subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-p", "-r", "-S", str(uid), "-G", str(gid),
             "--", "env", "-i", *(f"{name}={value}" for name, value in self.env.items()), *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd="/",
            env={"PATH": self.env["PATH"]},
        )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """Every process in it, by its number in there: the state's letter and the program."""
        found = {}
        for line in self.exec("sh", "-c", "cat /proc/[0-9]*/stat").stdout.splitlines():
            number, rest = line.split(" (", 1)
            name, state = rest.rsplit(") ", 1)
            found[int(number)] = f"{state[0]} {name}"
        return found

    @property
    def text(self) -> str:
        with self._news:
            return "\n".join(self.lines)

    def wait_log(self, part: str) -> str:
        """The first line that has the part in it."""
        until = time.monotonic() + PATIENCE
        with self._news:
            while not (found := next((line for line in self.lines if part in line), "")):
                left = until - time.monotonic()
                ended = self._process.poll() is not None and not self._reader.is_alive()
                if ended or left < 0:
                    raise AssertionError(f"no line with {part!r} in:\n" + "\n".join(self.lines))
                self._news.wait(min(left, 0.2))
        return found

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as stdout:
            for line in stdout:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()


@contextlib.contextmanager
def built() -> Iterator[tuple[Image, Image]]:
    """The base and the image, built if need be. Raises SystemExit with one reason."""
    if why := missing():
        raise SystemExit(f"image: {why}")
    CACHE.mkdir(mode=0o755, exist_ok=True)
    if CACHE.is_symlink() or CACHE.stat().st_uid != os.geteuid():
        raise SystemExit(f"image: {CACHE} belongs to somebody else: move it away")
    base = build_base()
    name = build(base)
    with mounted(base) as below, mounted(name) as image:
        yield below, image


def report(base: Image, image: Image) -> list[str]:
    added, own = image.megabytes - base.megabytes, size(image.root / "opt/pgidle")
    return [
        f"base {base.megabytes:.0f} MB, image {image.megabytes:.0f} MB: {added:.0f} MB more",
        f"of it {own:.0f} MB pgidle and its packages, {added - own:.0f} MB Debian's python3 and tini",
    ]


if __name__ == "__main__":
    with built() as images:
        print("\n".join(report(*images)))  # noqa: T201
