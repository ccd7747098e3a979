"""Small files of each platform in which nothing is wrong, for the tests to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.mistakes import of_kubernetes

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart

SERVICE = """
services:
  db:
    image: {image}
    environment: {{PGIDLE_WHEN_IDLE: stay{more}}}
    volumes: ["{volume}"]
    restart: always
"""


POD = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      containers:
        - name: db
          image: pgidle:18
          env: [{{name: PGIDLE_WHEN_IDLE, value: stay}}]
          ports: [{{name: pg, containerPort: 5432}}, {{name: http, containerPort: 8008}}]
          volumeMounts: [{{name: data, mountPath: /var/lib/postgresql}}]
          {more}
{beside}
"""


def pod(more: str = "", beside: str = "") -> Chart:
    return of_kubernetes(POD.format(more=more, beside=beside))


STOCK = """
app = "pg"
kill_timeout = "30s"
[[restart]]
policy = "on-failure"
[[mounts]]
source = "pg"
destination = "/data"
[[services]]
internal_port = 5432
protocol = "tcp"
[[services.ports]]
port = 5432
"""
