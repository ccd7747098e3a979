"""Django's ORM over psycopg, connections kept between requests; `checked` with CONN_HEALTH_CHECKS."""

import django
from django.conf import settings
from program import ACTION, PORT, ROOT, SSLMODE, across_a_sleep, answer

verified = {"sslrootcert": ROOT} if SSLMODE == "verify-full" else {}
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "app",
            "USER": "postgres",
            "HOST": "localhost",
            "PORT": PORT,
            "CONN_MAX_AGE": None,
            "CONN_HEALTH_CHECKS": ACTION == "checked",
            "OPTIONS": {"sslmode": SSLMODE, **verified},
        }
    }
)
django.setup()

from django.core.signals import request_finished, request_started  # noqa: E402
from django.db import connection, models  # noqa: E402


class Answer(models.Model):
    value = models.IntegerField()

    class Meta:
        app_label = "app"


def query():
    """One request, as Django's handlers frame it."""
    request_started.send(sender=None)
    try:
        return Answer.objects.get(value=42).value
    finally:
        request_finished.send(sender=None)


if Answer._meta.db_table not in connection.introspection.table_names():
    with connection.schema_editor() as editor:
        editor.create_model(Answer)
    Answer.objects.create(value=42)
if ACTION == "once":
    answer(query())
else:
    across_a_sleep(query)
