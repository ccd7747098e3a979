"""What the Python programs share. Arguments: what to do, port, sslmode, root certificate.

`once`: connect, ask for 42, print it. Anything else: ask twice with a sleep of the server in between, and
print how each ended.
"""

import sys

ACTION, PORT, SSLMODE, ROOT = sys.argv[1:5]
TLS = f"sslmode={SSLMODE}" + (f"&sslrootcert={ROOT}" if SSLMODE == "verify-full" else "")
DSN = f"postgresql://postgres@localhost:{PORT}/app?{TLS}"


def answer(value):
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def across_a_sleep(query):
    answer(f"ready {query()}")
    sys.stdin.readline()
    for _ in range(2):
        try:
            answer(f"ok {query()}")
        except Exception as error:  # noqa: BLE001  whatever the library raises is the answer
            answer(f"error {type(error).__name__}: {' '.join(str(error).split())}")
