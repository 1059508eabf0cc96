"""Operations on metadata: all at one version or none, and which of them fit."""

from __future__ import annotations

import pytest

from store.commands import MetadataOp, MetadataOperation, apply, check
from store.errors import Conflict, Invalid
from tests.builders import a_create, a_run
from tests.store.applying import LATER, LIMITS, a_mutation


def test_operations_are_one_version_or_none() -> None:
    run = a_run(metadata={"n": 1})
    after, changed = apply(
        run,
        a_mutation(
            MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),
            MetadataOperation(op=MetadataOp.APPEND, path="log", value="x"),
        ),
        LATER,
        LIMITS,
    )
    assert after.version == run.version + 1
    assert changed == {"metadata": {"n": 2, "log": ["x"]}}
    back_and_forth = a_mutation(
        MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1),
        MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=-1),
    )
    assert apply(run, back_and_forth, LATER, LIMITS) == (run, {})
    assert apply(run, a_mutation(), LATER, LIMITS) == (run, {})


def test_refused_operations_show_the_run() -> None:
    run = a_run(metadata={"n": "one"})
    command = a_mutation(MetadataOperation(op=MetadataOp.INCREMENT, path="n", value=1))
    with pytest.raises(Conflict, match="not a number") as refused:
        apply(run, command, LATER, LIMITS)
    assert refused.value.run is run


@pytest.mark.parametrize(
    "operation,path",
    [
        (MetadataOperation(op=MetadataOp.SET, path="", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path="a..b", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path=".a", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path="a\0", value=1), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.DELETE, path="a." * 64 + "a"), "operations.0.path"),
        (MetadataOperation(op=MetadataOp.SET, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.APPEND, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.REMOVE, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.INCREMENT, path="a"), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.DELETE, path="a", value=1), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.INCREMENT, path="a", value=True), "operations.0.value"),
        (MetadataOperation(op=MetadataOp.INCREMENT, path="a", value="1"), "operations.0.value"),
        (
            MetadataOperation(op=MetadataOp.INCREMENT, path="a", value=float("inf")),
            "operations.0.value",
        ),
        (
            MetadataOperation(op=MetadataOp.SET, path="a", value={"b": 2**64}),
            "operations.0.value.b",
        ),
    ],
)
def test_an_operation_that_does_not_fit_is_refused_and_the_place_named(
    operation: MetadataOperation, path: str
) -> None:
    with pytest.raises(Invalid) as refused:
        check(a_mutation(operation), LIMITS)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "kind,keys,fits",
    [
        (MetadataOp.SET, 64, True),
        (MetadataOp.SET, 65, False),
        (MetadataOp.APPEND, 63, True),
        (MetadataOp.APPEND, 64, False),
    ],
)
def test_no_operation_makes_metadata_nested_deeper_than_a_create_may(
    kind: MetadataOp, keys: int, fits: bool
) -> None:
    command = a_mutation(MetadataOperation(op=kind, path=".".join("k" * keys), value=1))
    if not fits:
        with pytest.raises(Invalid, match="deeper"):
            check(command, LIMITS)
        return
    check(command, LIMITS)
    after, _ = apply(a_run(metadata={}), command, LATER, LIMITS)
    check(a_create(metadata=after.metadata), LIMITS)


def test_steps_are_bounded_in_number() -> None:
    step = MetadataOperation(op=MetadataOp.DELETE, path="a")
    check(a_mutation(*[step] * 1_000), LIMITS)
    with pytest.raises(Invalid, match="1000"):
        check(a_mutation(*[step] * 1_001), LIMITS)
