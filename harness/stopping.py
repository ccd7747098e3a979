"""`pgidle run` that halts at a named point for as long as a test wants it to.

    python stopping.py 'before STOP_FAST' DOOR run -D ...

A point is `before` or `after`, and an effect of the lifecycle or one of STEPS. There the program connects to the Unix
socket DOOR and waits for the other end to be closed. None of this is in the product: its methods are wrapped here.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

STEPS = {
    "Gatekeeper.began": ("pgidle.gate.gatekeeper", "Gatekeeper", "began"),
    "Gatekeeper.ending": ("pgidle.gate.gatekeeper", "Gatekeeper", "ending"),
    "Gatekeeper.gone": ("pgidle.gate.gatekeeper", "Gatekeeper", "gone"),
    "Gatekeeper.answer": ("pgidle.gate.gatekeeper", "Gatekeeper", "_on_answer"),
    "Gatekeeper.told": ("pgidle.gate.gatekeeper", "Gatekeeper", "_on_told"),
    "Judge.looked": ("pgidle.observer.idle_judge", "Judge", "looked"),
    "Judge.conclude": ("pgidle.observer.idle_judge", "Judge", "_conclude"),
    "ObserverDialogue.confirmed": ("pgidle.run.observer_dialogue", "ObserverDialogue", "_on_confirmed"),
    "Judge.checkpointed": ("pgidle.observer.idle_judge", "Judge", "checkpointed"),
    "Leaving.look": ("pgidle.gate.leaving", "Leaving", "look"),
    "Leaving.call_off": ("pgidle.gate.leaving", "Leaving", "call_off"),
    "Server.spawn": ("pgidle.run.postgres_server", "Server", "_spawn"),
    "Server.on_exit": ("pgidle.run.postgres_server", "Server", "_on_exit"),
    "StateDir.remember": ("pgidle.system.state_directory", "StateDir", "remember_postmaster"),
    "early.spawn": ("pgidle.run.spawn", "", "spawn_early"),
    "os._exit": ("os", "", "_exit"),
}


def main(point: str, door: str, *arguments: str) -> None:
    when, name = point.split()
    # The judge is the observer's, which is a fork of the supervisor; all else is the supervisor's.
    first, is_observers = os.getpid(), name.startswith("Judge.")

    def stand_still() -> None:
        if (os.getpid() != first) is not is_observers:
            return
        with socket.socket(socket.AF_UNIX) as told:
            told.connect(door)
            told.recv(1)

    def wrapped(function: Any) -> Any:
        def stepping(*given: Any, **named: Any) -> Any:
            if when == "before":
                stand_still()
            result = function(*given, **named)
            if when == "after":
                stand_still()
            return result

        return stepping

    if name in STEPS:
        module, owner, attribute = STEPS[name]
        __import__(module)
        place = getattr(sys.modules[module], owner) if owner else sys.modules[module]
        setattr(place, attribute, wrapped(getattr(place, attribute)))
    else:
        from pgidle.lifecycle.transitions import Effect
        from pgidle.run import supervisor

        supervisor._EFFECTS[getattr(Effect, name)] = wrapped(supervisor._EFFECTS[getattr(Effect, name)])
    sys.argv[1:] = arguments
    from pgidle.__main__ import main

    main()


if __name__ == "__main__":
    main(*sys.argv[1:])
