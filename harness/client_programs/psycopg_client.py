"""psycopg: `once`, or `pool` with psycopg_pool, whose connections are not checked unless told so."""

import psycopg
from program import ACTION, DSN, across_a_sleep, answer

if ACTION == "once":
    with psycopg.connect(DSN) as connection:
        answer(connection.execute("SELECT 42").fetchone()[0])
else:
    from psycopg_pool import ConnectionPool

    check = ConnectionPool.check_connection if ACTION == "checked" else None
    with ConnectionPool(DSN, min_size=1, max_size=1, check=check) as pool:

        def query():
            with pool.connection() as connection:
                return connection.execute("SELECT 42").fetchone()[0]

        across_a_sleep(query)
