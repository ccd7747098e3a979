"""As which role the connection that looks is made: the one made for it, the one that was given, or a superuser."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from harness.postgres_fixture import Cluster, wait_until
from harness.watch import active, watching
from pgidle.idle.reasons import ReasonKind
from pgidle.idle.snapshot import LookFailed, Snapshot

if TYPE_CHECKING:
    from harness.installations import Installation


def _role(cluster: Cluster) -> None:
    with cluster.connect() as admin:
        admin.execute("CREATE ROLE pgidle LOGIN IN ROLE pg_monitor")


def test_a_role_that_was_made_for_it_is_preferred_from_the_second_look_on(cluster: Cluster) -> None:
    cluster.start()
    _role(cluster)
    with watching(cluster) as watch:
        assert watch.see().watched_as == "postgres"
        assert watch.has_role
        watch.disconnect()
        assert watch.see().watched_as == "pgidle"
        assert not active(watch.judge())
    with watching(cluster, knows_role=True) as watch:
        assert watch.see().watched_as == "pgidle"
        assert watch.has_role


def test_a_role_that_is_not_let_in_is_no_obstacle_and_is_told(cluster: Cluster) -> None:
    cluster.start()
    _role(cluster)
    hba = cluster.data_dir / "pg_hba.conf"
    hba.write_text(f"local all pgidle reject\n{hba.read_text()}")
    with cluster.connect() as admin:
        admin.execute("SELECT pg_reload_conf()")
    with watching(cluster, knows_role=True) as watch:
        look = watch.see()
        assert look.watched_as == "postgres"
        assert look.refusal is not None
        assert "pgidle" in look.refusal
        assert not watch.has_role
        notes = [reason.text for reason in watch.judge().reasons if reason.kind is ReasonKind.NOTE]
        assert any("cannot connect" in note for note in notes)
        watch.disconnect()
        watch.see()
        assert cluster.log.count("pg_hba.conf rejects connection") == 1


def test_the_role_gets_in_as_the_documentation_says(installation: Installation, cluster: Cluster) -> None:
    cluster.start()
    _role(cluster)
    us = pwd.getpwuid(os.geteuid()).pw_name
    hba, ident = (cluster.data_dir / name for name in ("pg_hba.conf", "pg_ident.conf"))
    hba.write_text(f"local all pgidle peer map=pgidle\nlocal all pgidle reject\n{hba.read_text()}")
    ident.write_text(f"pgidle {us} pgidle\n")
    with cluster.connect() as admin:
        admin.execute("SELECT pg_reload_conf()")
        may_checkpoint = installation.major >= 15
        if may_checkpoint:
            admin.execute("GRANT pg_checkpoint TO pgidle")
        with watching(cluster, "nobody", knows_role=True) as watch:
            wait_until(lambda: isinstance(watch.look(), Snapshot))
            assert watch.see().watched_as == "pgidle"
            assert (watch.checkpoint() is None) is may_checkpoint


def test_a_role_that_is_gone_is_forgotten(cluster: Cluster) -> None:
    cluster.start()
    with watching(cluster, knows_role=True) as watch:
        look = watch.see()
        assert (look.watched_as, look.refusal, watch.has_role) == ("postgres", None, False)


def test_a_role_that_only_watches_can_be_given(cluster: Cluster) -> None:
    """Its string says who, and the rest is known."""
    cluster.start()
    with cluster.connect() as admin:
        admin.execute("CREATE ROLE other LOGIN IN ROLE pg_monitor")
    with watching(cluster, conninfo="user=other dbname=template1") as watch:
        assert watch.see().watched_as == "other"
        watch.settle()


def test_a_server_without_a_way_in_says_what_to_do(cluster: Cluster) -> None:
    cluster.start()
    with watching(cluster, "nobody at all") as watch:
        failed = watch.look()
        assert isinstance(failed, LookFailed)
        assert "--watch 'user=NAME dbname=NAME'" in failed.reason
        with cluster.connect() as admin:
            admin.execute('CREATE ROLE "nobody at all" LOGIN SUPERUSER')
        assert isinstance(watch.look(), Snapshot)
