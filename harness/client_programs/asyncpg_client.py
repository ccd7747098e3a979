"""asyncpg: `once`, or its pool."""

import asyncio
import sys

import asyncpg
from program import ACTION, DSN, answer


async def once():
    connection = await asyncpg.connect(DSN)
    answer(await connection.fetchval("SELECT 42"))
    await connection.close()


async def across():
    """The loop runs on meanwhile, as in a program that serves others."""
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1) as pool:
        answer(f"ready {await pool.fetchval('SELECT 42')}")
        await asyncio.to_thread(sys.stdin.readline)
        for _ in range(2):
            try:
                answer(f"ok {await pool.fetchval('SELECT 42')}")
            except (asyncpg.PostgresError, OSError) as error:
                answer(f"error {type(error).__name__}: {error}")


asyncio.run(once() if ACTION == "once" else across())
