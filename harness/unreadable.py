"""Uses everything that pgidle uses, after Python's files have become unreadable.

    python -I -S unreadable.py CLOSED FOLDER USER SOCKET_DIR PORT HTTP_PORT [preload]

CLOSED holds links to the folders of `sys.path`, and only root can read it. Prints the modules that were imported after
the change of user and could not be found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

QUERY = """
    select now(), 1.5::numeric, '::1'::inet, '10.0.0.0/8'::cidr, '{}'::jsonb, interval '1h', true,
    array[1], gen_random_uuid(), 'x'::text, null, 1::oid, 'a'::name, %s::text, %s::timestamptz, %s::int[]
"""
missing: set[str] = set()


class Recorder:
    """Asked last, when no other finder has the module."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        missing.add(name)


def main(
    closed: str, folder: str, user: str, socket_dir: str, port: str, http_port: str, preload: str = ""
) -> None:
    sys.path[:] = sorted(str(link) for link in Path(closed).iterdir())
    sys.path_importer_cache.clear()
    from pgidle.system.users import become, plan, python_unreadable

    identity = plan(user, "")
    assert identity is not None
    assert str(python_unreadable(identity)).startswith(closed)
    if preload:
        from pgidle.system.preload_modules import preload as prepare

        prepare()
    become(identity)
    sys.meta_path.append(Recorder())
    use_all(
        folder, {"host": socket_dir, "port": port, "user": "postgres", "dbname": "postgres"}, int(http_port)
    )
    sys.stdout.write(json.dumps(sorted(missing)))


def use_all(folder: str, where: dict[str, str], http_port: int) -> None:
    import asyncio
    import importlib
    import logging
    import subprocess
    import tomllib

    import click
    import click.testing
    import psutil

    importlib.import_module("pgidle.postgres.first_start")
    asyncio.run(talk(folder, where, http_port))
    subprocess.run(["/bin/true"], check=True)
    tomllib.loads("a = 1")
    assert "bücher".encode("idna") == b"xn--bcher-kva"
    command = click.Command("x", params=[click.Option(["--aa"])], help="y")
    for arguments in (["--help"], ["--ab"], ["more"]):
        click.testing.CliRunner().invoke(command, arguments)
    assert [one.info for one in psutil.process_iter(["pid", "name", "cwd", "memory_info"])]
    psutil.net_connections("tcp")
    logging.getLogger().error("%s", "x", stack_info=True)


async def talk(folder: str, where: dict[str, str], http_port: int) -> None:
    import asyncio
    import datetime
    import socket
    import traceback

    import psycopg
    import watchfiles

    from pgidle.control import http_server

    async with await psycopg.AsyncConnection.connect(**where, autocommit=True) as connection:  # type: ignore[arg-type]
        values = ["é", datetime.datetime.now(datetime.UTC), [1, 2]]
        assert await (await connection.execute(QUERY, values)).fetchone()
        try:
            await connection.execute("nonsense")
        except psycopg.Error as fault:
            traceback.format_exception(fault)
            fault.diag.message_primary  # noqa: B018 - reading it decodes it
    for host in ("localhost", "nobody.invalid"):
        try:
            await psycopg.AsyncConnection.connect(host=host, port=1, connect_timeout=2)
        except psycopg.OperationalError as fault:
            traceback.format_exception(fault)
    listener = socket.create_server(("127.0.0.1", http_port))
    serving = http_server.HttpServer(answer)
    asking = asyncio.ensure_future(asyncio.to_thread(ask, http_port))
    connected, _ = await asyncio.to_thread(listener.accept)
    connected.setblocking(False)
    await serving.let_in(connected, b"")
    assert await asking == b"well"
    await serving.close()
    watcher = watchfiles.awatch(folder, debounce=50, step=10)
    first = asyncio.ensure_future(anext(watcher))
    while not first.done():
        await asyncio.to_thread(Path(folder, "changed").write_text, "")
        await asyncio.sleep(0.05)
    await watcher.aclose()
    await (await asyncio.create_subprocess_exec("/bin/true")).wait()


async def answer(_method: str, _path: str, _query: str, _peer: str):  # type: ignore[no-untyped-def]
    from pgidle.control.http_server import Answer

    return Answer(200, b"text/plain", b"well")


def ask(http_port: int) -> bytes:
    import http.client

    connection = http.client.HTTPConnection("localhost", http_port)
    connection.request("GET", "/")
    return connection.getresponse().read()


if __name__ == "__main__":
    main(*sys.argv[1:])
