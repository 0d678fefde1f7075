"""What the call layer tells of a move is what the Call resource allows: the API server refuses anything else."""

from kedge.api.call import CallState, ReanchorResult
from kedge.call import reanchor
from kedge.ports.records import CallState as RecordedState


def test_every_result_of_a_move_may_stand_in_a_status() -> None:
    results = {
        reanchor.MOVED, reanchor.DIVERGE, reanchor.ROLLED_BACK, reanchor.FAILED_RESULT, reanchor.ENDED_RESULT,
        reanchor.NO_RELAY, reanchor.AGAIN,
    }  # fmt: skip

    assert results <= set(ReanchorResult)


def test_every_state_of_a_call_may_stand_in_a_status() -> None:
    assert {one.value for one in RecordedState} == set(CallState)
