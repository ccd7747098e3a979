"""Services in the same file that keep Postgres awake, because they query it over TCP every few seconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import image_name
from pgidle.doctor.readers.compose_variables import is_known
from pgidle.doctor.readers.server_addresses import Variable, addresses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.server_addresses import Address
    from pgidle.doctor.readers.stated_settings import Told
    from pgidle.doctor.readers.tree import Node

_MONITORS = re.compile(
    r"(?:postgres|postgresql|pg|sql|query)[-_]?exporter|pgwatch|pganalyze|pgmonitor|pghero|postgres-monitor"
    r"|^netdata$|zabbix-agent|^telegraf$|^coroot|^percona-?pmm|^pmm-client$|^promscale$",
)
_PRIMARY = re.compile(r"^(?:REPLICATE_FROM|(?:POSTGRES(?:QL)?_|PG_?)?(?:MASTER|PRIMARY)_(?:HOST|NODE))$")
_POLLS = re.compile(
    r"temporalio/(?:auto-setup|server)|apache/airflow|hasura/graphql-engine|prefecthq/prefect|zabbix-server|dagster"
)
"""Images whose programs are known to poll their database for work, or to write heartbeats to it."""
_POOLERS = re.compile(r"pgbouncer|pgcat|pgpool|odyssey|supavisor|pgdog")
_ASKS = re.compile(r"\b(pg_isready|psql|nc|pg_dump|telnet)\b")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """`environ` are its variables; `hides` says where it may have more; `probes` are its own checks, by name."""

    name: str
    image: str
    line: int
    environ: Mapping[str, Node]
    words: Sequence[str]
    hides: str
    probes: Mapping[str, tuple[Sequence[str], int]]


def is_monitor(image: str) -> bool:
    """Whether the image, by its name, contains a program that queries Postgres over and over."""
    return _MONITORS.search(image_name(image)[0].lower()) is not None or "datadog/agent" in image


def check_neighbour(chart: Chart, one: Neighbour, hosts: Collection[str], told: Told) -> None:
    """`hosts` are the names by which it would reach the Postgres that should sleep."""
    _check_probes(chart, one, hosts)
    _check_others(chart, one, hosts)
    if not is_monitor(one.image):
        return
    found = list(addresses(_variables(one)))
    ours = [each for each in found if _reaches(each, hosts, told)]
    where = f"{chart.subject}:{ours[0].variable.line if ours else one.line}"
    if ours:
        chart.wrong(
            f"{one.name} ({image_name(one.image)[0]}) asks Postgres over TCP",
            where,
            "every scrape is a connection to the database port: Postgres never sleeps, or is woken again and again,"
            " whatever `ignore` says",
            "connect it over the Unix socket (a volume that both mount, host=/var/run/postgresql)"
            " and name it in PGIDLE_IGNORE; or scrape pgidle's own /metrics",
        )
    elif any(each.is_socket for each in found):
        if not told.settings.ignore and told.knows("ignore"):
            chart.wrong(
                f"{one.name} ({image_name(one.image)[0]}) asks Postgres over its Unix socket, and is not ignored",
                where,
                "each session that comes and goes counts as use: Postgres never sleeps",
                "PGIDLE_IGNORE with its application_name or user, as docs/neighbours.md shows",
            )
        else:
            chart.fine(f"{one.name} asks over the Unix socket")
    elif not found or any(not is_known(each.host) for each in found):
        chart.unknown(
            f"which Postgres {one.name} ({image_name(one.image)[0]}) asks, and how",
            where,
            f"its connection string is not in this file{f' ({one.hides})' if one.hides else ''}; over TCP every scrape"
            " keeps Postgres awake",
            "connect it over the Unix socket and name it in PGIDLE_IGNORE; or leave it out, and scrape pgidle's own"
            " /metrics",
        )


def _addresses(text: str, host: str) -> bool:
    """Whether a command names the host as a host, and not as a user or a database of the same name."""
    name = re.escape(host)
    before = r"(?:-h\s*|--host[=\s]|host=|@|//|/dev/tcp/|\b(?:nc|telnet)\s(?:-\S+\s)*)"
    return re.search(rf"{before}['\"]?{name}(?![\w-])|(?<![\w@.-]){name}:\d", text) is not None


def _check_others(chart: Chart, one: Neighbour, hosts: Collection[str]) -> None:
    """Neighbours that keep Postgres awake by their nature: its standby, or a program that polls its tables for work."""
    standby = next(
        (
            node
            for name, node in one.environ.items()
            if _PRIMARY.search(name) and (node.text or "").lower() in hosts
        ),
        None,
    )
    if standby is not None:
        chart.note(
            f"{one.name} replicates from this Postgres",
            f"{chart.subject}:{standby.line}",
            "a standby that is connected keeps its primary awake (setting replication)",
            "PGIDLE_REPLICATION: ignore, if Postgres may sleep all the same; docs/neighbours.md says what follows",
        )
    polls = _POLLS.search(one.image.lower()) is not None
    named = {each.host.lower() for each in addresses(_variables(one))}
    named |= {(node.text or "").lower() for node in one.environ.values()}
    if polls and named & set(hosts):
        chart.note(
            f"{one.name} ({image_name(one.image)[0]}) asks Postgres for work every few seconds",
            f"{chart.subject}:{one.line}",
            "as long as it runs, Postgres does not sleep",
            "stop it while nobody needs it; or give it a database of its own",
        )


def _variables(one: Neighbour) -> Iterator[Variable]:
    for name, node in one.environ.items():
        if node.text is not None:
            yield Variable(name, node.text, node.line)
    for word in one.words:
        name, equals, value = word.lstrip("-").partition("=")
        yield Variable(name if equals else "", value if equals else word, one.line)


def _reaches(address: Address, hosts: Collection[str], told: Told) -> bool:
    host = address.host.strip("[]").lower()
    if host == "":
        return address.port == str(told.settings.port)
    return host in hosts or (".svc" in host and host.partition(".")[0] in hosts)


def _check_probes(chart: Chart, one: Neighbour, hosts: Collection[str]) -> None:
    for name, (words, line) in one.probes.items():
        text = " ".join(words)
        if _POOLERS.search(image_name(one.image)[0].lower()) is not None:
            if "psql" in text:
                chart.unknown(
                    f"whether {name} of {one.name} gets through to Postgres ({text[:60]})",
                    f"{chart.subject}:{line}",
                    "a query through a pooler reaches Postgres, so Postgres never sleeps; only one of the database"
                    " pgbouncer is answered by the pooler",
                    "pg_isready, which asks only the pooler",
                )
        elif _ASKS.search(text) is not None and any(_addresses(text, host) for host in hosts):
            chart.wrong(
                f"{name} of {one.name} connects to Postgres ({text[:60]})",
                f"{chart.subject}:{line}",
                "each is a connection to the database port: Postgres never sleeps, or is woken again and again",
                f"a check of {one.name} itself; or wget -q -O /dev/null http://POSTGRES:8008/health",
            )
