"""What the platforms that pgidle runs on prescribe: their defaults, limits and keys, and where each was read.

To bring a platform up to date, read the files that READ_FROM names in its newest release, correct what is below, and
write the release there. Durations are seconds, memory is megabytes (of 1024 kB), volumes are gigabytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Platform(Enum):
    """The platforms that `pgidle init` writes files for, and whose files `pgidle doctor` reads."""

    FLY = "fly"
    SYSTEMD = "systemd"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class Release:
    """`places` are the files of the release's source, or the pages of its manual, that the facts were read from."""

    name: str
    version: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


FLYCTL = Release(
    "flyctl",
    "0.4.87 (with fly-go 0.9.6)",
    (
        "flyctl: internal/appconfig (config, service, patches, validation, strict_validate, processgroups).go",
        "flyctl: internal/machine/update.go, internal/command/deploy/deploy_first.go, deploy_build.go",
        "fly-go: machine_types.go",
        "https://fly.io/docs/reference/configuration/",
    ),
)
COMPOSE = Release(
    "compose-go",
    "2.13.0 (with the compose-spec schema of June 2026)",
    (
        "compose-go: template/template.go, format/volume.go",
        "compose-spec: schema/compose-spec.json, 05-services.md",
        "https://docs.docker.com/reference/cli/docker/container/run/",
    ),
)
KUBERNETES = Release("Kubernetes", "1.37 beta (k8s.io/api)", ("core/v1/types.go, apps/v1/types.go",))
SYSTEMD = Release(
    "systemd",
    "252",
    (
        "systemd.service(5), systemd.socket(5), systemd.kill(5), systemd.exec(5), systemd.time(7), systemd.unit(5)",
    ),
)
POSTGRES = Release(
    "PostgreSQL",
    "18",
    ("src/backend/libpq/hba.c, src/backend/utils/misc/guc-file.l, the manual's chapters 19 and 20",),
)
POSTGRES_IMAGE = Release(
    "the official image",
    "of PostgreSQL 18.3",
    ("docker-library/postgres: Dockerfile-debian.template, docker-entrypoint.sh",),
)
READ_FROM = (FLYCTL, COMPOSE, KUBERNETES, SYSTEMD, POSTGRES, POSTGRES_IMAGE)

# Seconds from the stop signal to SIGKILL, unless the user sets another time.
FLY_KILL_TIMEOUT, FLY_LONGEST_KILL_TIMEOUT = 5.0, 300.0
DOCKER_STOP_GRACE_PERIOD = 10.0
SYSTEMD_STOP_TIMEOUT = 90.0
KUBERNETES_GRACE_PERIOD = 30.0

BUILT_MAJOR = 18
"""The version that pgidle's own Dockerfile builds on, unless told otherwise."""
FIRST_INITDB_WITH_SETTINGS = 16
"""The first major version whose initdb has -c."""
IMAGE_ENVIRONMENT = {"PGIDLE_HTTP": ":8008"}
"""The variables that pgidle's own Dockerfile sets."""
IMAGE_VOLUME = "/var/lib/postgresql"
"""The official image's data directory is below it, in every version."""
OLD_IMAGE_VOLUME = f"{IMAGE_VOLUME}/data"
"""The official image's data directory up to version 17, and a volume of the image's own."""
FIRST_NEW_IMAGE = 18


_NAMED_TAG = re.compile(r"(?:^|[-_.])pg-?(\d{1,2})(?!\d)")
_TAG = re.compile(r"^v?(\d{1,2})(?!\d)")
_VERSIONS = range(8, 40)


def image_name(image: str) -> tuple[str, str]:
    """An image's own name, without registry and folders, and its tag, empty where there is none."""
    name, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    return name, tag


def image_major(image: str) -> int | None:
    """PostgreSQL's major version from the image's tag, if it says: 18.1, pg17, 16-3.4, 2.17.2-pg16."""
    name, tag = image_name(image)
    found = _NAMED_TAG.search(tag)
    if found is None and not name.startswith("timescaledb"):  # whose own version is 2
        found = _TAG.search(tag)
    version = int(found[1]) if found is not None else 0
    return version if version in _VERSIONS else None


def image_data_dir(major: int) -> str:
    """Where the official image keeps its data unless PGDATA says otherwise."""
    return OLD_IMAGE_VOLUME if major < FIRST_NEW_IMAGE else f"{IMAGE_VOLUME}/{major}/docker"


FLY_DATA_DIRS = ("/data/postgresql", "/data/postgres")
"""Where Fly's own images, postgres-flex and postgres-ha, keep theirs on a volume at /data."""
FLY_IMAGE_CHECK = "/flycheck/"
"""The path of the checks of those images, on port 5500."""

FLY_MEMORY_STEP = {"shared": 256, "performance": 1024}
FLY_LEAST_MEMORY = {"shared": 256, "performance": 2048}
FLY_MOST_MEMORY = {"shared": 2048, "performance": 8192}
"""Megabytes for each CPU."""
FLY_CPUS = {"shared": (1, 2, 4, 6, 8), "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16)}
"""The numbers of CPUs that a machine may have, by kind."""
FLY_SIZES = {
    (f"shared-cpu-{cpus}x" if kind == "shared" else f"performance-{cpus}x"): (kind, cpus)
    for kind, counts in FLY_CPUS.items()
    for cpus in counts
}
FLY_DEFAULT_SIZE = "shared-cpu-1x"
FLY_GPU_SIZES = ("a100-40gb", "a100-80gb", "l40s", "a10")
FLY_LARGEST_VOLUME = 500
FLY_SNAPSHOT_DAYS = (1, 60)
FLY_SHORTEST_CHECK_INTERVAL, FLY_LONGEST_CHECK_TIMEOUT = 2.0, 60.0
FLY_DEPLOY_WATCH = 60.0
"""`fly deploy` waits until a machine has started and passes its checks, and fails if it exits before that."""
FLY_RESTART_POLICIES = ("always", "never", "on-failure")
FLY_DEPLOY_STRATEGIES = ("canary", "rolling", "immediate", "bluegreen")
FLY_AUTOSTOP = ("off", "stop", "suspend", "false", "true")

_FLY_CHECK = {
    *(
        "interval",
        "timeout",
        "grace_period",
        "method",
        "path",
        "protocol",
        "tls_skip_verify",
        "tls_server_name",
    ),
    *("headers",),
}
_FLY_PROXY = {
    *("internal_port", "auto_stop_machines", "auto_start_machines", "min_machines_running", "concurrency"),
    *("machine_checks", "processes"),
}
_FLY_GUEST = {
    *("cpu_kind", "cpus", "memory_mb", "max_memory_mb", "gpus", "gpu_kind", "host_dedication_id"),
    *("persist_rootfs", "kernel_args"),
}
FLY_KEYS: Mapping[str, frozenset[str]] = {
    path: frozenset(keys)
    for path, keys in {
        "": {
            *("app", "primary_region", "kill_signal", "kill_timeout", "swap_size_mb", "console_command"),
            *("experimental", "build", "deploy", "env", "processes", "mounts", "mount", "http_service"),
            *("services", "checks", "files", "host_dedication_id", "machine_config", "container"),
            *("machine_checks", "restart", "vm", "compute", "computes", "statics", "metrics", "metric"),
        },
        "services": {*_FLY_PROXY, "protocol", "ports", "tcp_checks", "http_checks", "script_checks"},
        "services.ports": {
            *("port", "start_port", "end_port", "handlers", "force_https", "tls_options", "http_options"),
            "proxy_proto_options",
        },
        "services.concurrency": {"type", "hard_limit", "soft_limit"},
        "services.tcp_checks": {"interval", "timeout", "grace_period", "restart_limit"},
        "services.http_checks": {*_FLY_CHECK, "restart_limit"},
        "http_service": {*_FLY_PROXY, "force_https", "tls_options", "http_options", "checks"},
        "mounts": {
            *("source", "destination", "initial_size", "snapshot_retention", "scheduled_snapshots"),
            *("auto_extend_size_threshold", "auto_extend_size_increment", "auto_extend_size_limit"),
            "processes",
        },
        "vm": {*_FLY_GUEST, "size", "memory", "processes"},
        "restart": {"policy", "retries", "processes"},
        "metrics": {"port", "path", "https", "processes"},
        "checks.*": {*_FLY_CHECK, "type", "port", "processes", "restart_limit", "name"},
        "build": {
            *("builder", "args", "buildpacks", "image", "settings", "builtin", "dockerfile", "ignorefile"),
            *("build-target", "build_target", "compose", "compression", "compression_level"),
        },
        "deploy": {
            *("strategy", "max_unavailable", "wait_timeout", "release_command", "release_command_timeout"),
            *("release_command_vm", "seed_command"),
        },
    }.items()
}
"""The keys of a fly.toml that flyctl reads, by their section. `fly config validate --strict` checks only those of
[build], [deploy], [checks] and the top level: it accepts a section that is an array of tables as it is. restart_limit
and script_checks are old keys that nothing reads any more, but many files still have."""
