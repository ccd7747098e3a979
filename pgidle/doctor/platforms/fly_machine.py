"""fly.toml's machine and its volume: sizes that Fly has, and whether the data lies on the volume."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pgidle.base.platform_limits import (
    FIRST_NEW_IMAGE,
    FLY_CPUS,
    FLY_DATA_DIRS,
    FLY_DEFAULT_SIZE,
    FLY_GPU_SIZES,
    FLY_LARGEST_VOLUME,
    FLY_LEAST_MEMORY,
    FLY_MEMORY_STEP,
    FLY_MOST_MEMORY,
    FLY_SIZES,
    FLY_SNAPSHOT_DAYS,
    FLYCTL,
    IMAGE_VOLUME,
    OLD_IMAGE_VOLUME,
    image_data_dir,
)

if TYPE_CHECKING:
    from pgidle.doctor.finding import Chart
    from pgidle.doctor.readers.stated_settings import Told
    from pgidle.doctor.readers.tree import Node

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)[iI]?[bB]?")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def _megabytes(text: str) -> int | None:
    """As units.RAMInBytes reads it, a bare number being megabytes."""
    return _size(text, 1024, 2**20)


def _gigabytes(text: str) -> int | None:
    """As units.FromHumanSize reads it, a bare number being gigabytes."""
    return _size(text, 1000, 10**9)


def _size(text: str, step: int, unit: int) -> int | None:
    """A size in units of `unit` bytes; its prefixes are powers of `step`. None if it is not a size."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    if text.isdecimal():
        return int(float(found[1]))
    return int(float(found[1]) * step ** _POWERS[found[2].lower()] / unit)


def check_size(chart: Chart, root: Node) -> None:
    """What flyctl would refuse about [[vm]] at the first deploy."""
    for vm in root.list("vm"):
        size = vm.word("size") or FLY_DEFAULT_SIZE
        where = f"{chart.subject}:{(vm.at('size') or vm).line}"
        if size in FLY_GPU_SIZES or vm.at("gpu_kind") is not None:
            chart.not_read.append(f"[[vm]] {size}, which has a GPU")
            continue
        if size not in FLY_SIZES:
            chart.wrong(
                f"[[vm]] size is {size}",
                where,
                f"{FLYCTL.name} knows no such size",
                f'size = "{FLY_DEFAULT_SIZE}"',
            )
            continue
        kind, cpus = FLY_SIZES[size]
        kind = vm.word("cpu_kind") or kind
        counted = vm.word("cpus")
        cpus = int(counted) if counted is not None and counted.isdecimal() else cpus
        if kind not in FLY_CPUS or (cpus not in FLY_CPUS[kind] and cpus <= max(FLY_CPUS["performance"])):
            chart.wrong(
                f"[[vm]] has {cpus} CPUs of kind {kind}",
                f"{chart.subject}:{(vm.at('cpus') or vm.at('cpu_kind') or vm).line}",
                "there is no such machine",
                f"one of {', '.join(map(str, FLY_CPUS['shared']))} shared ones",
            )
            continue
        _check_memory(chart, vm, kind, cpus)


def _check_memory(chart: Chart, vm: Node, kind: str, cpus: int) -> None:
    node = vm.at("memory_mb") or vm.at("memory")
    if node is None:
        chart.fine("[[vm]] is a size that Fly has")
        return
    memory = _megabytes(node.text or "")
    where = f"{chart.subject}:{node.line}"
    step, least, most = FLY_MEMORY_STEP[kind], FLY_LEAST_MEMORY[kind] * cpus, FLY_MOST_MEMORY[kind] * cpus
    if memory is None:
        chart.wrong(f"memory {node.text} is not a size", where, "fly deploy refuses it", 'memory = "512mb"')
    elif memory % step or not least <= memory <= most:
        near = min(max(memory // step * step, least), most)
        chart.wrong(
            f"memory is {memory} MB, with {cpus} {kind} CPU{'s' * (cpus > 1)}",
            where,
            f"Fly refuses it: such a machine has {least} to {most} MB, in steps of {step}",
            f'memory = "{near}mb"',
        )
    else:
        chart.fine("[[vm]] is a size that Fly has")


def check_volumes(chart: Chart, root: Node, told: Told, version: int | None) -> None:
    """Whether the data directory is on the volume, and the volume's own settings."""
    mounts = root.list("mounts")
    if not mounts:
        chart.wrong(
            "no volume is mounted",
            f"{chart.subject}:1",
            "the machine's own file system is made anew at every start: the data would be lost",
            f'[[mounts]] source = "pgdata", destination = "{_parent(told)}"',
        )
    if len(mounts) > 1:
        chart.wrong(
            f"{len(mounts)} volumes for one machine",
            f"{chart.subject}:{mounts[1].line}",
            "a machine has one; fly deploy refuses more",
            "one [[mounts]]",
        )
    for mount in mounts:
        _check_place(chart, mount, told, version)
        _check_volume(chart, mount)


def _check_place(chart: Chart, mount: Node, told: Told, version: int | None) -> None:
    destination, line = mount.word("destination") or "", (mount.at("destination") or mount).line
    where = f"{chart.subject}:{line}"
    volume = PurePosixPath(destination or "/")
    said = told.data_dir or (image_data_dir(version) if version is not None else None)
    if said is None:
        if str(volume) == IMAGE_VOLUME:
            chart.fine(f"a volume at {destination}, where the official image keeps its data")
            return
        fly_data = next((one for one in FLY_DATA_DIRS if volume in PurePosixPath(one).parents), None)
        chart.unknown(
            f"whether the data directory lies on the volume at {destination}",
            where,
            "neither the file nor the image's name says where the data directory is"
            + (f"; Fly's own images have it in {' or '.join(FLY_DATA_DIRS)}" if fly_data else ""),
            "PGDATA under [env]: the folder on the volume that has PG_VERSION in it, if there is one; any other folder"
            " gets a new database",
        )
        return
    data_dir = PurePosixPath(said)
    if volume == data_dir:
        chart.wrong(
            f"the volume is mounted at the data directory {data_dir} itself",
            where,
            "a volume's root has lost+found in it, and Postgres wants an empty directory",
            f'for a new database: PGDATA = "{data_dir}/pgdata" under [env]',
        )
    elif volume in data_dir.parents:
        chart.fine(f"data directory {data_dir} on the volume at {volume}")
    elif told.data_dir is None and str(volume) == OLD_IMAGE_VOLUME:
        chart.wrong(
            f"the volume is mounted at {destination}",
            where,
            f"from version {FIRST_NEW_IMAGE} on the image keeps its data in {data_dir}, which is not on this volume",
            f"mount it at {IMAGE_VOLUME}; or, with data of an older version in it, that version's image",
        )
    else:
        chart.wrong(
            f"the data directory {data_dir} does not lie on the volume at {destination}",
            where,
            "what is not on the volume is lost when the machine stops",
            f'destination = "{data_dir.parent}"'
            if told.data_dir is None
            else f'destination = "{data_dir.parent}"; or PGDATA where the data is on this volume',
        )


def _check_volume(chart: Chart, mount: Node) -> None:
    for key in ("initial_size", "auto_extend_size_limit"):
        node = mount.at(key)
        size = _gigabytes(node.text or "") if node is not None else None
        if node is not None and (size is None or not 1 <= size <= FLY_LARGEST_VOLUME):
            chart.wrong(
                f"{key} is {node.text}",
                f"{chart.subject}:{node.line}",
                f"a volume has 1 to {FLY_LARGEST_VOLUME} GB",
                f'{key} = "10gb"',
            )
    days = mount.at("snapshot_retention")
    least, most = FLY_SNAPSHOT_DAYS
    if days is not None and not ((days.text or "").isdecimal() and least <= int(days.text or "0") <= most):
        chart.wrong(
            f"snapshot_retention is {days.text}",
            f"{chart.subject}:{days.line}",
            f"fly deploy refuses it: {least} to {most} days",
            "snapshot_retention = 5",
        )
    threshold = mount.at("auto_extend_size_threshold")
    if threshold is not None and (
        mount.at("auto_extend_size_increment") is None
        or not ((threshold.text or "").isdecimal() and 50 <= int(threshold.text or "0") <= 99)
    ):
        chart.wrong(
            f"auto_extend_size_threshold is {threshold.text}"
            + ("" if mount.at("auto_extend_size_increment") is not None else ", without an increment"),
            f"{chart.subject}:{threshold.line}",
            "fly deploy refuses it: 50 to 99 (percent), with auto_extend_size_increment",
            'auto_extend_size_threshold = 80, auto_extend_size_increment = "1gb", auto_extend_size_limit = "10gb"',
        )


def _parent(told: Told) -> str:
    return str(PurePosixPath(told.data_dir).parent) if told.data_dir else IMAGE_VOLUME
