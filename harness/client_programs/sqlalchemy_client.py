"""SQLAlchemy over psycopg, with its usual pool; `checked` with pool_pre_ping."""

from program import ACTION, DSN, across_a_sleep, answer
from sqlalchemy import create_engine, text

engine = create_engine(DSN.replace("postgresql:", "postgresql+psycopg:"), pool_pre_ping=ACTION == "checked")


def query():
    with engine.connect() as connection:
        return connection.execute(text("SELECT 42")).scalar_one()


if ACTION == "once":
    answer(query())
else:
    across_a_sleep(query)
