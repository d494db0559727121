"""Files that are written while training goes on: in order, from copies, and no failure is lost."""

import threading

import pytest
import torch

from effssl.training._background import BackgroundWriter, host_copy


def test_jobs_run_in_order_and_do_not_hold_up_the_caller():
    go, done = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.submit(lambda: done.append(go.wait(10)))
        writer.submit(lambda: done.append("second"))
        assert done == [] and not writer.has_failed()
        go.set()
        writer.finish()
        assert done == [True, "second"]


def test_leaving_waits_for_what_is_under_way_even_after_an_error():
    done = []
    with pytest.raises(KeyError), BackgroundWriter() as writer:
        writer.submit(lambda: done.append(threading.Event().wait(0.2)))
        raise KeyError
    assert done == [False]


def fail():
    raise OSError("no room")


def test_a_failure_is_seen_without_waiting_and_raised_once():
    with BackgroundWriter() as writer:
        writer.submit(fail)
        with pytest.raises(OSError, match="no room"):
            writer.finish()
        assert not writer.has_failed()
        writer.finish()
        writer.submit(fail)
        later = threading.Event()
        writer.submit(later.set)
        assert later.wait(10)  # the one before it is done by now
        assert writer.has_failed()


def test_a_copy_stays_as_it_was_while_the_state_goes_on():
    weight = torch.ones(3)
    state = {"weight": weight, "more": [weight, {"step": 4}], "name": "run"}
    copied = host_copy(state)
    weight.zero_()
    assert copied["weight"].tolist() == copied["more"][0].tolist() == [1, 1, 1]
    assert copied["more"][1] == {"step": 4} and copied["name"] == "run"


def test_every_failure_is_raised_or_logged(caplog):
    def fail_too():
        raise OSError("no model")

    with BackgroundWriter() as writer:
        writer.submit(fail)
        writer.submit(fail_too)
        with pytest.raises(OSError, match="no room"):
            writer.finish()
    assert [record.getMessage() for record in caplog.records] == ["no model"]
