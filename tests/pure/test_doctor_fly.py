"""What the doctor says of a fly.toml: of what people have written, and of one right file with one mistake in it."""

from __future__ import annotations

import pytest

from harness.mistakes import NOTE, UNKNOWN, WRONG, Mistake, check
from pgidle.doctor.platforms import fly
from pgidle.doctor.readers.stated_settings import Context
from pgidle.doctor.readers.toml_tree import read_toml, statements
from pgidle.doctor.readers.tree import BadFile

RIGHT = """
app = "pg"
primary_region = "ams"
kill_signal = "SIGINT"
kill_timeout = "30s"

[env]
  PGDATA = "/data/pg"  # in the volume
  PGIDLE_HTTP = "0.0.0.0:8008"
  PGIDLE_STOP_TIMEOUT = "25s"
  OTHER = "x"

[[restart]]
  policy = "on-failure"

[[mounts]]
  source = "pg"
  destination = "/data"

[[services]]
  internal_port = 5432
  protocol = "tcp"
  auto_stop_machines = "off"
  auto_start_machines = true
  min_machines_running = 0

  [[services.ports]]
    port = 5432

  [services.concurrency]
    type = "connections"
    hard_limit = 200

[checks.pgidle]
  type = "http"
  port = 8008
  path = "/health"
"""
ENV = '  OTHER = "x"\n'
PORT = "    port = 5432\n"
PORTS = f"  [[services.ports]]\n{PORT}"

MISTAKES = [
    Mistake('"on-failure"', '"always"', WRONG, "restart policy is always", "always"),
    Mistake('"on-failure"', '"never"', WRONG, "restart policy is never", "never"),
    Mistake('[[restart]]\n  policy = "on-failure"\n', "", NOTE, "no restart policy"),
    Mistake('"off"', '"stop"', WRONG, "auto_stop_machines is stop", "auto_stop"),
    Mistake('"off"', '"suspend"', WRONG, "auto_stop_machines is suspend", "auto_stop"),
    Mistake('"off"', "true", WRONG, "auto_stop_machines is true", "auto_stop"),
    Mistake(
        "auto_start_machines = true", "auto_start_machines = false", WRONG, "auto_start_machines", "auto_start"
    ),
    Mistake("running = 0", "running = 1", NOTE, "min_machines_running is 1", "min_machines"),
    Mistake(PORT, f'{PORT}    handlers = ["http"]\n', WRONG, 'handler "http"', "handlers"),
    Mistake(PORT, f'{PORT}    handlers = [\n  "tls"\n]\n', WRONG, 'handler "tls"', "handlers"),
    Mistake(PORT, f'{PORT}    handlers = ["proxy_proto"]\n', WRONG, "proxy_proto", "handlers"),
    Mistake(PORT, f'{PORT}    handlers = ["pg_tls"]\n', NOTE, "handler pg_tls", "handlers"),
    Mistake(PORT, f"{PORT}    force_https = true\n", WRONG, "force_https", "force_https"),
    Mistake(PORTS, "", WRONG, "has no [[services.ports]]", "[[services]]"),
    Mistake("internal_port = 5432", "internal_port = 5433", WRONG, "leads to port 5432", "internal_port"),
    Mistake(ENV, f'{ENV}  PGIDLE_PORT = "6000"\n', WRONG, "leads to port 6000", "internal_port"),
    Mistake('"tcp"', '"udp"', WRONG, "protocol is udp", "udp"),
    Mistake('"connections"', '"requests"', WRONG, "counted in requests", "requests"),
    Mistake("hard_limit = 200", "hard_limit = 25", NOTE, "hard_limit is 25", "hard_limit"),
    Mistake(
        PORTS, f"{PORTS}  [[services.tcp_checks]]\n", WRONG, "a service check on the database", "tcp_checks"
    ),
    Mistake(
        PORTS, f"{PORTS}  [[services.http_checks]]\n", WRONG, "a service check on the database", "http_checks"
    ),
    Mistake(
        "[checks.pgidle]",
        '[checks.db]\n  type = "tcp"\n  port = 5432\n[checks.pgidle]',
        WRONG,
        "check db connects to the database port",
        "checks.db",
    ),
    Mistake('"0.0.0.0:8008"', '"[::1]:8008"', WRONG, "check pgidle asks pgidle's HTTP", "checks.pgidle"),
    Mistake('"on-failure"', '"on-fail"', WRONG, "restart policy is on-fail", "on-fail"),
    Mistake('"0.0.0.0:8008"', '"off"', WRONG, "pgidle's HTTP, which is off", "checks.pgidle"),
    Mistake('"SIGINT"', '"SIGKILL"', WRONG, "kill_signal is SIGKILL", "kill_signal"),
    Mistake('"SIGINT"', '"SIGQUIT"', WRONG, "kill_signal is SIGQUIT", "kill_signal"),
    Mistake('"30s"', '"25s"', WRONG, "kill_timeout is 25s", "kill_timeout"),
    Mistake('"30s"', "20", WRONG, "kill_timeout is 20s", "kill_timeout"),
    Mistake('kill_timeout = "30s"\n', "", WRONG, "kill_timeout is not given, so it is 5s, and pgidle gives"),
    Mistake('"30s"', '"10m"', WRONG, "kill_timeout is 10min", "kill_timeout"),
    Mistake('"30s"', '"soon"', WRONG, "kill_timeout soon is not a duration", "kill_timeout"),
    Mistake(
        '[[mounts]]\n  source = "pg"\n  destination = "/data"\n', "", WRONG, "no volume is mounted", None
    ),
    Mistake('"/data"', '"/data/pg"', WRONG, "the volume is mounted at the data directory", "destination"),
    Mistake('"/data"', '"/var/lib"', WRONG, "does not lie on the volume", "destination"),
    Mistake('"/data"', '"/data/p"', WRONG, "does not lie on the volume", "destination"),
    Mistake('  PGDATA = "/data/pg"', "  #", UNKNOWN, "whether the data directory lies on", "destination"),
    Mistake(ENV, f'{ENV}  X = "pg.internal:5432"\n', WRONG, "pg.internal is an .internal name", "X ="),
    Mistake(ENV, f'{ENV}  PGHOST = "top1.nearest.of.pg.internal"\n', WRONG, "of.pg.internal", "PGHOST ="),
    Mistake(
        ENV, f'{ENV}  X = "postgres://u@pg.flycast/d?sslmode=require"\n', WRONG, "sslmode=require", "X ="
    ),
    Mistake(ENV, f'{ENV}  X = "postgres://u@pg.flycast/d"\n', NOTE, "does not say sslmode=disable", "X ="),
    Mistake(ENV, f'{ENV}  PGIDLE_IDLE_TIMEOUT = "5"\n', WRONG, "'5' is not a duration", "IDLE_TIMEOUT"),
    Mistake(ENV, f'{ENV}  PGIDLE_IDEL_TIMEOUT = "5s"\n', WRONG, "is unknown", "IDEL_TIMEOUT"),
    Mistake(ENV, f'{ENV}  PGIDLE_IDLE_TIMEOUT = "off"\n', NOTE, "idle-timeout is off", "IDLE_TIMEOUT"),
    Mistake(ENV, f'{ENV}  PGIDLE_WHEN_IDLE = "stay"\n', NOTE, "when-idle is stay", "WHEN_IDLE"),
    Mistake(ENV, f'{ENV}  PGIDLE_LISTEN_ADDRESSES = "localhost"\n', WRONG, "listens on localhost", "LISTEN"),
    Mistake(ENV, f'{ENV}  PGIDLE_LISTEN_ADDRESSES = "fly-local-6pn"\n', WRONG, "fly-local-6pn only", "LISTEN"),
    Mistake(ENV, f'{ENV}  POSTGRES_PASSWORD = "x"\n', NOTE, "POSTGRES_PASSWORD has a password", "POSTGRES_P"),
    Mistake(ENV, f'{ENV}  FLY_SCALE_TO_ZERO = "1h"\n', NOTE, "FLY_SCALE_TO_ZERO is set", "FLY_SCALE"),
    Mistake("[env]", '[deploy]\n  strategy = "bluegreen"\n[env]', WRONG, "strategy is bluegreen", "strategy"),
    Mistake("[env]", '[processes]\n  app = "--idle-timeout 1h"\n[env]', WRONG, "--idle-timeout is pgidle's own", "1h"),
    *(
        Mistake("[env]", f'[build]\n  image = "{image}"\n[env]', WRONG, f"pgidle is not in the image {image}", "image")
        for image in (
            *("postgres:17", "flyio/postgres-flex:17.2@sha256:aa", "pgvector/pgvector:pg17", "postgis/postgis"),
            *("r.io:5000/a/postgres", "timescale/timescaledb:latest-pg17"),
        )
    ),
    Mistake("[env]", '[build]\n  image = "r.io/db:1"\n[env]', UNKNOWN, "whether pgidle is in", "image"),
]  # fmt: skip

# What a change near a mistake does not make the doctor say.
HARMLESS = [
    ('"off"', "false"),
    ('"30s"', "26"),
    ('"30s"', '"5m"'),
    ('"SIGINT"', '"SIGTERM"'),
    ("  min_machines_running = 0\n", ""),
    ("  auto_start_machines = true\n", ""),
    # The image says so.
    ('  PGIDLE_HTTP = "0.0.0.0:8008"\n', ""),
    ("hard_limit = 200", "soft_limit = 20"),
    ('destination = "/data"', 'destination = "/"'),
    ("# in the volume", "# not pg.internal, nor postgres://u@pg.flycast/d?sslmode=require"),
    (ENV, f'{ENV}  X = "postgres://u@pg.flycast/d?sslmode=disable"\n'),
    (ENV, f'{ENV}  X = "postgres://u@pg.example.com/d?sslmode=require"\n'),
    (ENV, f'{ENV}  X = "http://_api.internal:4280"\n'),
    (ENV, f'{ENV}  X = "internal"\n'),
    (ENV, f'{ENV}  PGIDLE_LISTEN_ADDRESSES = "*"\n'),
    ("[env]", '[processes]\n  app = "pgidle run --idle-timeout 1h -- -c shared_buffers=64MB"\n[env]'),
    ("[env]", '[processes]\n  app = "postgres -c shared_buffers=64MB"\n[env]'),
    ("[env]", '[processes]\n  app = "-c shared_buffers=64MB"\n[env]'),
    ("[env]", '[build]\n  dockerfile = "Dockerfile"\n[env]'),
    ("[env]", '[build]\n  image = "r.io/me/pgidle:17"\n[env]'),
    ("[env]", '[deploy]\n  strategy = "rolling"\n[env]'),
    ("[checks.pgidle]", '[checks.other]\n  type = "http"\n  port = 9000\n[checks.pgidle]'),
    (PORTS, f'{PORTS}  [[services.ports]]\n    port = 6432\n'),
]  # fmt: skip


def test_the_right_file_is_right() -> None:
    chart = fly.examine("fly.toml", RIGHT, Context())
    assert chart.findings == []
    assert "kill_timeout 30s is above stop-timeout 25s" in chart.right


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_named_in_its_place(mistake: Mistake) -> None:
    text = mistake.made_in(RIGHT)
    check(mistake, fly.examine("fly.toml", text, Context()), text)


@pytest.mark.parametrize(("old", "new"), HARMLESS)
def test_what_is_near_a_mistake_is_none(old: str, new: str) -> None:
    assert RIGHT.count(old) == 1
    assert fly.examine("fly.toml", RIGHT.replace(old, new), Context()).findings == []


def test_http_service_instead_of_a_service() -> None:
    head, _, rest = RIGHT.partition("[[services]]")
    tail = rest.partition("[checks.pgidle]")[2]
    text = f"{head}[http_service]\n  internal_port = 5432\n[checks.pgidle]{tail}"
    wrong = [one.what for one in fly.examine("fly.toml", text, Context()).findings if one.severity is WRONG]
    assert wrong == ["[http_service] leads to Postgres's port 5432"]


def test_staying_forgives_what_only_matters_to_who_exits() -> None:
    text = RIGHT.replace(ENV, f'{ENV}  PGIDLE_WHEN_IDLE = "stay"\n')
    text = text.replace('"on-failure"', '"always"').replace("machines = true", "machines = false")
    assert [one.severity for one in fly.examine("fly.toml", text, Context()).findings] == [NOTE]


def test_the_default_kill_timeout_is_enough_for_the_default_stop_timeout_and_short() -> None:
    text = RIGHT.replace('kill_timeout = "30s"\n', "").replace('  PGIDLE_STOP_TIMEOUT = "25s"\n', "")
    found = fly.examine("fly.toml", text, Context()).findings
    assert [(one.severity, one.what) for one in found] == [(NOTE, "kill_timeout is not given, so it is 5 s")]


def test_a_measured_shutdown_counts() -> None:
    slow = Context(shutdown=42.0)
    found = fly.examine("fly.toml", RIGHT, slow).findings
    assert [one.what for one in found] == ["kill_timeout is 30s, and the last shutdown took 42s"]
    assert found[0].change == 'kill_timeout = "84s"'


def test_options_of_the_doctor_count_where_the_file_says_nothing() -> None:
    options = Context({"PGIDLE_STOP_TIMEOUT": "1h", "PGIDLE_WHEN_IDLE": "stay"})
    found = fly.examine("fly.toml", RIGHT, options).findings
    assert [one.what for one in found] == ["when-idle is stay"]


# The file of somebody who lost three hours to it: the application's, not Postgres's.
THEIRS = """
app = "test"
primary_region = "lhr"
kill_signal = "SIGINT"
kill_timeout = "5s"

[env]
  PORT = "8080"
  ENVIRONMENT = "production"
  DATABASE_URL = "postgres://app:secret@test-db.flycast:5432/app"

[[services]]
  protocol = "tcp"
  internal_port = 8080

  [[services.ports]]
    port = 80
    handlers = ["http"]

  [[services.ports]]
    port = 443
    handlers = ["tls", "http", "pg_tls"]

  [services.concurrency]
    hard_limit = 25
    soft_limit = 20

  [[services.tcp_checks]]
    interval = "15s"
    timeout = "2s"
    grace_period = "1s"
    restart_limit = 6
"""
CLIENT = "this fly.toml has no service on Postgres's port 5432, and nothing that says Postgres runs here"
FLAT = "\n".join(line for line in THEIRS.split("\n") if not line.lstrip().startswith("["))


def test_pg_tls_in_the_application_is_named() -> None:
    found = fly.examine("fly.toml", THEIRS, Context()).findings
    assert [(one.severity, one.what, one.where) for one in found] == [
        (WRONG, "handler pg_tls beside http or tls", "fly.toml:22"),
        (NOTE, "a connection over Flycast does not say sslmode=disable", "fly.toml:10"),
        (NOTE, CLIENT, "fly.toml:1"),
    ]
    assert "sslmode=disable" in found[0].change


def test_a_file_that_lost_its_headings_is_told_them() -> None:
    found = fly.examine("fly.toml", FLAT, Context()).findings
    wrong = {one.what: one for one in found if one.severity is WRONG}
    headings = {one.why.partition("under ")[2] for what, one in wrong.items() if "above every" in what}
    assert headings == {
        *("[env]", "[[services]]", "[[services.ports]]", "[services.concurrency]", "[checks.NAME]"),
    }
    assert wrong["handler pg_tls beside http or tls"].where == "fly.toml:18"
    assert wrong["not TOML: Cannot overwrite a value"].where == "fly.toml:17"


def test_an_applications_own_mistakes_are_not_postgres_s() -> None:
    right = THEIRS.replace(', "pg_tls"', "").replace("5432/app", "5432/app?sslmode=disable")
    assert [one.severity for one in fly.examine("fly.toml", right, Context()).findings] == [NOTE]


def test_the_application_s_file_made_postgres_s() -> None:
    text = THEIRS.replace("8080\n", "5432\n")
    wrong = [one.what for one in fly.examine("fly.toml", text, Context()).findings if one.severity is WRONG]
    assert wrong == [
        "handler pg_tls beside http or tls",
        'handler "http" on a port that leads to Postgres',
        'handler "tls" on a port that leads to Postgres',
        'handler "http" on a port that leads to Postgres',
        "a service check on the database port (services.tcp_checks)",
        "no volume is mounted",
    ]


@pytest.mark.parametrize("text", ["app =", "[env\nPORT = 1", 'a = """', "a = 1\na = 2", "=", "]", "[[x", '"'])
def test_what_is_no_toml_has_a_line(text: str) -> None:
    found = fly.examine("fly.toml", text, Context()).findings
    said = next(one for one in found if one.what.startswith("not TOML: "))
    assert said.where.removeprefix("fly.toml:").isdecimal()


def test_a_key_of_a_thousand_parts_is_refused_and_not_a_fault_of_ours() -> None:
    with pytest.raises(BadFile, match="recursion"):
        read_toml(".".join("a" * 3000) + " = 1\n")


def test_an_array_that_is_never_closed_takes_the_rest_and_a_heading_does_not() -> None:
    found = list(statements("a = 1\n[env\nb = [1,\n2]\nc = {\nd = 1\n"))
    assert [(one.line, one.key) for one in found] == [(1, "a"), (3, "b"), (5, "c")]


OLD = RIGHT.replace('  PGDATA = "/data/pg"', "  #").replace('"/data"', '"/var/lib/postgresql/data"')


@pytest.mark.parametrize(
    ("build", "dockerfile", "what"),
    [
        ("", "FROM postgres:18", "the volume is mounted at /var/lib/postgresql/data"),
        ('image = "pgidle:18"', None, "the volume is mounted at /var/lib/postgresql/data"),
        # A volume of Fly's has a lost+found, so it is no data directory itself.
        (
            'image = "pgidle:17"',
            None,
            "the volume is mounted at the data directory /var/lib/postgresql/data itself",
        ),
        (
            "",
            "FROM postgres:17",
            "the volume is mounted at the data directory /var/lib/postgresql/data itself",
        ),
    ],
)
def test_the_old_place_of_data(build: str, dockerfile: str | None, what: str) -> None:
    text = OLD.replace("[env]", f"[build]\n{build}\n[env]")
    found = fly.examine("fly.toml", text, Context(dockerfile=dockerfile)).findings
    assert [(one.severity, one.what) for one in found] == [(WRONG, what)]
    assert fly.examine("fly.toml", text.replace("postgresql/data", "postgresql"), Context()).findings == []


def test_a_loopback_address_of_health_is_cured_for_both_families() -> None:
    text = RIGHT.replace("0.0.0.0:8008", "127.0.0.1:8008")
    assert [one.change for one in fly.examine("fly.toml", text, Context()).findings] == [
        'PGIDLE_HTTP = ":8008" under [env]'
    ]
