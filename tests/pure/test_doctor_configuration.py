"""What the doctor says of postgresql.conf and pg_hba.conf, and how it reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from harness.installations import run_as_server
from pgidle.doctor.finding import Chart, Severity
from pgidle.doctor.machine.pg_hba import check_hba
from pgidle.doctor.machine.postgresql_conf import check_parameters, check_ssl
from pgidle.doctor.readers.hba_records import Record, Texts, read_hba
from pgidle.postgres.postgresql_conf import Parameters, read_lines, read_parameters
from pgidle.settings.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from harness.installations import Installation, Place
    from pgidle.settings.resolve import Settings

WRONG, NOTE, UNKNOWN = Severity.WRONG, Severity.NOTE, Severity.UNKNOWN


def settings_of(data_dir: str = "/srv/pg", **options: str) -> Settings:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return resolve({"data-dir": data_dir, **given}, {}, None, None, "/").settings


def parameters_of(folder: Path, text: str, *postgres_args: str) -> Parameters:
    (folder / "postgresql.conf").write_text(text)
    return read_parameters(str(folder), postgres_args)


def said_of(folder: Path, text: str, **options: str) -> list[tuple[Severity, str, str]]:
    chart = Chart("postgresql.conf")
    check_parameters(chart, parameters_of(folder, text), settings_of(str(folder), **options))
    return [(one.severity, one.what, one.where.removeprefix(f"{folder}/")) for one in chart.findings]


@pytest.mark.parametrize(
    ("line", "severity", "what"),
    [
        ("listen_addresses = 'localhost'", NOTE, "listen_addresses is 'localhost' here"),
        ("port = 5433", NOTE, "port is '5433' here"),
        ("data_directory = '/elsewhere'", WRONG, "data_directory is /elsewhere"),
        ("track_activities = off", WRONG, "track_activities is off"),
        ("track_activities = fal", WRONG, "track_activities is off"),
        ("track_counts no", WRONG, "track_counts is off"),
        ("shared_preload_libraries = 'a, pg_cron'", NOTE, "pg_cron is loaded"),
        ("archive_mode = always", NOTE, "archive_mode is on"),
        ("include 'gone.conf'", WRONG, "gone.conf"),
        ("include_dir = 'gone'", WRONG, "gone"),
    ],
)
def test_a_setting_that_fights_is_named(tmp_path: Path, line: str, severity: Severity, what: str) -> None:
    (found,) = said_of(tmp_path, f"# x\n\n{line}  # y\n")
    assert found[0] is severity
    assert what in found[1]
    if "gone" not in what:
        assert found[2] == "postgresql.conf:3"


@pytest.mark.parametrize(
    "line",
    [
        "listen_addresses = '*'",
        "port = 5432",
        "#port = 5433",
        "unix_socket_directories = '/tmp'",
        "track_activities = on",
        "track_counts = TRUE",
        "shared_preload_libraries = 'pg_stat_statements'",
        "shared_preload_libraries = 'auto_explain' # pg_cron",
        "archive_mode = off",
        "include_if_exists 'gone.conf'",
        "idle_session_timeout = 1h",
        "nonsense",
    ],
)
def test_what_is_near_is_not(tmp_path: Path, line: str) -> None:
    assert said_of(tmp_path, line) == []


def test_the_same_data_directory_and_socket_folder(tmp_path: Path) -> None:
    assert said_of(tmp_path, f"data_directory = '{tmp_path}/'") == []
    text = "unix_socket_directories = '/a, /b'"
    assert said_of(tmp_path, text, socket_dir="/c")[0][0] is NOTE


def test_the_last_word_counts_and_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/1.conf").write_text("\nport = 2\n")
    (tmp_path / "conf.d/.2.conf").write_text("port = 9")
    (tmp_path / "more.conf").write_text("Work_Mem '1MB'")
    text = "port = 1\ninclude_dir 'conf.d'\ninclude = 'more.conf'\n"
    found = parameters_of(tmp_path, text, "-c", "jit=off", "--geqo=on")
    assert found.values["port"].where == f"{tmp_path}/conf.d/1.conf:2"
    assert found.value("work_mem") == "1MB"
    assert (found.value("jit"), found.where("geqo")) == ("off", "after --")
    (tmp_path / "postgresql.auto.conf").write_text("port = '3'\n")
    assert read_parameters(str(tmp_path), ()).value("port") == "3"
    (tmp_path / "else.conf").write_text("port = 4\n")
    (tmp_path / "postgresql.auto.conf").unlink()
    elsewhere = read_parameters(str(tmp_path), ("-c", f"config_file={tmp_path}/else.conf"))
    assert elsewhere.where("port") == f"{tmp_path}/else.conf:1"


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    found = parameters_of(tmp_path, "include 'postgresql.conf'\nport = 1\n")
    assert found.value("port") == "1"
    assert "too deeply" in found.unread[0][1]


LINES = r"""
application_name = 'it''s \'x\' \\ y'
DateStyle='iso, dmy'#z
work_mem  64MB
log_line_prefix = '# %m '
   enable_hashjoin = off # comment
bytea_output hex
wrong line here
"""


def ask_single(installation: Installation, data_dir: Path, query: str) -> str:
    """What a standalone backend, which needs no port and no socket, answers."""
    postgres = installation.program("postgres")
    return run_as_server(postgres, "--single", "-D", data_dir, "postgres", input=f"{query}\n").stdout


def test_lines_are_read_as_postgres_reads_them(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    said = {name: value for _, name, value in read_lines(LINES)}
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write(LINES.replace("wrong line here", ""))
    names = ", ".join(f"'{name}'" for name in said)
    answer = ask_single(
        newest, data_dir, f"select lower(name), setting from pg_settings where lower(name) in ({names})"
    )
    shown = dict(re.findall(r'lower = "(.*)"\t.*\n.*setting = "(.*)"\t', answer))
    as_shown = {"datestyle": "ISO, DMY", "work_mem": "65536"}
    assert shown == {name: as_shown.get(name, value) for name, value in said.items()}
    assert len(said) == 6


@pytest.mark.parametrize(("on", "count"), [("ssl = on", 1), ("ssl = off", 0), ("", 0)])
def test_tls_needs_its_files(tmp_path: Path, on: str, count: int) -> None:
    chart = Chart("x")
    check_ssl(chart, parameters_of(tmp_path, on), {"ssl_key_file": "server.key: No such file"})
    assert [one.where for one in chart.findings] == [f"{tmp_path}/postgresql.conf:1"] * count


# pg_hba.conf

HBA = """
local   all  all                  peer
host    all  all  127.0.0.1/32    scram-sha-256
host    all  all  10.0.0.0/8      scram-sha-256
"""


def hba_says(text: str, **more: object) -> list[tuple[Severity, str, str]]:
    chart = Chart("pg_hba.conf")
    usual = {"watchers": ["postgres"], "system_user": "postgres", "is_public": True, "has_ssl": False}
    usual |= {"is_mapped": lambda *_: True, "version": 18}
    check_hba(chart, "hba", Texts({"hba": text}), **(usual | more))  # type: ignore[arg-type]
    return [(one.severity, one.what, one.where) for one in chart.findings]


def test_the_right_file_is_right() -> None:
    assert hba_says(HBA) == []


@pytest.mark.parametrize(
    ("old", "new", "severity", "what", "line"),
    [
        ("10.0.0.0/8      scram-sha-256", "0.0.0.0/0 trust", WRONG, "trust for 0.0.0.0/0", 4),
        ("10.0.0.0/8      scram-sha-256", "all trust", WRONG, "trust for all", 4),
        ("10.0.0.0/8      scram-sha-256", "::/0 trust", WRONG, "trust for ::/0", 4),
        ("10.0.0.0/8      scram-sha-256", "0.0.0.0 0.0.0.0 trust", WRONG, "trust for 0.0.0.0/0", 4),
        ("10.0.0.0/8      scram-sha-256", "10.0.0.0/8 trust", NOTE, "trust for 10.0.0.0/8", 4),
        ("127.0.0.1/32    scram-sha-256", "127.0.0.1/32 trust", NOTE, "trust for 127.0.0.1/32", 3),
        ("127.0.0.1/32    scram-sha-256", "::1/128 trust", NOTE, "trust for ::1/128", 3),
        ("peer", "scram-sha-256", WRONG, "the watching connection is not let in", 2),
        ("peer", "reject", WRONG, "the watching connection is not let in", 2),
        ("local   all  all ", "local   all  other ", WRONG, "no local record is for it", 1),
        ("local   all  all ", "local   app  all ", WRONG, "no local record is for it", 1),
        ("local   all  all ", "local   all  +staff ", UNKNOWN, "whether the watching role", 2),
        ("host    all  all  10.0.0.0/8      scram-sha-256\n", "", NOTE, "no record lets anybody in", 3),
        ("host    all  all  10.", "hostssl all  all  10.", WRONG, "with TLS only (hostssl), and ssl is", 4),
        ("host    all  all  10.", "hosst all  all  10.", WRONG, "not a record: hosst", 4),
        ("\nlocal", "include\nlocal", WRONG, "`include`", 1),
    ],
)
def test_a_record_that_is_wrong_is_named(
    old: str, new: str, severity: Severity, what: str, line: int
) -> None:
    assert HBA.count(old) == 1
    found = hba_says(HBA.replace(old, new))
    assert any(one[0] is severity and what in one[1] and one[2] == f"hba:{line}" for one in found), found
    assert sum(one[0] is WRONG for one in found) == (severity is WRONG)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("peer", "trust"),
        ("peer", "peer map=x"),
        ("local   all  all ", "local   postgres,app  x,postgres "),
        ("local   all  all ", "local   all  other  md5\nlocal  all all "),
        ("10.0.0.0/8      scram-sha-256", "all reject\nhost all all samenet md5"),
        ("10.0.0.0/8      scram-sha-256", "10.0.0.0 255.0.0.0 md5 # trust"),
        ("\nlocal", "# host all all all trust\n\\\nlocal"),
        ("host    all  all  10.", "hostssl all all 11.0.0.0/8 md5\nhost    all  all  10."),
    ],
)
def test_a_record_that_is_near_is_not(old: str, new: str) -> None:
    assert HBA.count(old) == 1
    assert hba_says(HBA.replace(old, new)) == []


def test_who_watches_decides_what_is_locked_out() -> None:
    text = HBA.replace("peer", "scram-sha-256")
    assert hba_says(text, watchers=[]) == []
    assert hba_says(HBA, watchers=["app", "postgres"]) == []
    assert hba_says(HBA, watchers=["app"])[0][0] is WRONG
    assert hba_says(HBA, watchers=["app"], system_user="app") == []


def test_who_listens_on_loopback_only_has_no_network() -> None:
    assert [
        one[0] for one in hba_says(HBA.replace("10.0.0.0/8      scram-sha-256", "all trust"), is_public=False)
    ] == [NOTE]
    assert hba_says(HBA.replace("10.0.0.0/8 ", "127.0.0.2/32"), is_public=False) == []


def test_tls_only_is_said_to_whom_has_tls() -> None:
    assert [
        one[0] for one in hba_says(HBA.replace("host    all  all  10", "hostssl all all 10"), has_ssl=True)
    ] == [NOTE]


RECORDS = """local all "all","x y" trust
host a,b +g, u 10.1.2.3 255.255.255.0 md5
hostnossl all all .example.com ident map=m
host a , b all 10.0.0.0/8 md5
"""


def test_records_are_what_postgres_reads(newest: Installation, place: Place) -> None:
    data_dir = place.data_dir(newest)
    (data_dir / "pg_hba.conf").write_text(RECORDS)
    lists = "array_to_string(database, ',') as d, array_to_string(user_name, ',') as u"
    answer = ask_single(
        newest,
        data_dir,
        f"select line_number, type, {lists}, auth_method from pg_hba_file_rules where error is null",
    )
    records = [one for one in read_hba(RECORDS) if isinstance(one, Record)]
    assert re.findall(r' = "(.*)"\t', answer) == [
        said
        for one in records
        for said in (str(one.line), one.kind, ",".join(one.databases), ",".join(one.users), one.method)
    ]
    assert [one.address for one in records] == ["", "10.1.2.0/24", ".example.com"]
    assert [one.line for one in records] == [1, 2, 3]
