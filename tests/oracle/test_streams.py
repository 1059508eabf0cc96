"""Random histories and faults: every stream must equal what the database says.

A finding is printed as a line of JSON: kept in `seeds/`, it is played with every run from then on.
`python -m tests.oracle --help` plays histories by the seed, shortens and keeps them.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

import pytest
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.oracle.actions import ACTIONS
from tests.oracle.history import kept_in, plan, play
from tests.oracle.place import Place, SetUp
from tests.oracle.world import Step, World
from tests.servers import Postgres, Valkey

SET_UPS: Final = ("sqlite", "sqlite-redis", "postgres", "postgres-redis")
KEPT: Final = Path(__file__).parent / "seeds"
SEEDS: Final = sorted(KEPT.glob("*.json"))
RULES: Final = sorted((Path(__file__).parent / "rules").glob("*.json"))
IS_LONG: Final = settings().max_examples > 1_000
MINUTES: Final = float(os.environ.get("ORACLE_MINUTES", "60"))
"""How long `make oracle` plays, on each set-up."""

STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from([name for name, (weight, _) in ACTIONS.items() for _ in range(weight)]),
        st.integers(0, 2**16 - 1),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module", params=SET_UPS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Two servers' stores on one database of each kind, with and without Redis."""
    with _place(request, request.param) as place:
        yield place


def _place(request: pytest.FixtureRequest, name: str) -> Place:
    database, _, with_redis = name.partition("-")
    redis = postgres = valkey = None
    if database == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("oracle")
        url = f"sqlite:///{folder / 'runstream.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres_server")
        postgres = server.ensure()
        url = server.create_database()
        request.addfinalizer(lambda: server.ensure().drop_database(url))
    if with_redis:
        broker: Valkey = request.getfixturevalue("valkey_server")
        valkey = broker.ensure()
        redis = valkey.url
    return Place(SetUp(name, url, redis, postgres, valkey))


class Streams(RuleBasedStateMachine):
    """Writers, gateways and clients, and all that can befall them."""

    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed: int) -> None:
        self.world = World(self.place, seed)

    @rule(steps=STEPS)
    def go_on(self, steps: list[Step]) -> None:
        assert self.world is not None
        for name, number in steps:
            self.world.do(name, number)

    @rule(number=st.integers(0, 2**16 - 1))
    def settle(self, number: int) -> None:
        assert self.world is not None
        self.world.settle(number)

    def teardown(self) -> None:
        world = self.world
        if world is None:
            return
        note(world.kept())
        try:
            world.settle()
        finally:
            world.close()


def test_every_stream_equals_what_the_database_says(place: Place) -> None:
    """Of all the orders in which things can happen and go wrong, some; others with each run."""

    class Here(Streams):
        pass

    Here.place = place
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=300 if IS_LONG else 4,
            stateful_step_count=25 if IS_LONG else 15,
            # To shorten a finding takes minutes: `python -m tests.oracle` does it, and `make oracle`.
            phases=[*Phase] if IS_LONG else [Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )


def play_kept(place: Place, paths: list[Path]) -> None:
    """All that are of this set-up."""
    for path in paths:
        kept = json.loads(path.read_text())
        if kept["setUp"] == place.set_up.name:
            play(place, kept["seed"], ((name, number) for name, number in kept["history"]))


def test_what_was_found_once_is_not_found_again(place: Place) -> None:
    """Each is the history by which a bug was found, without what it did not need."""
    play_kept(place, SEEDS)


if IS_LONG:

    def test_what_shows_a_rule_shows_nothing_while_the_rule_is_there(place: Place) -> None:
        """Each is the shortest history known that shows the loss of one of the rules."""
        play_kept(place, RULES)

    def test_nothing_is_found_for_long(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        """Longer histories, from a seed that is printed, for as long as ORACLE_MINUTES says."""
        first = random.SystemRandom().randrange(10**6) * 1_000
        with capsys.disabled():
            print(f"\n{place.set_up.name}: seeds from {first}", end=" ", flush=True)  # noqa: T201
        until = time.monotonic() + MINUTES * 60
        seed, steps = first, 0
        while time.monotonic() < until:
            try:
                steps += len(play(place, seed, plan(seed, 400)).history)
            except Exception as error:
                # Longer than it need be: `python -m tests.oracle --keep` makes it shorter.
                (KEPT / f"found-{place.set_up.name}-{seed}.json").write_text(kept_in(error) + "\n")
                raise
            seed += 1
        with capsys.disabled():
            print(f"to {seed}, {steps} steps", flush=True)  # noqa: T201
