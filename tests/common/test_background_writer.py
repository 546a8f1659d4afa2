import threading

import pytest

from pipeline.common.background_writer import BackgroundWriter
from pipeline.common.sizes import size_option, size_text


@pytest.mark.parametrize("most", [0, 1])
def test_no_more_work_waits_than_was_allowed(most):
    go, given = threading.Event(), []

    def give():
        with BackgroundWriter(most) as writer:
            for number in range(4):
                writer.submit(go.wait)
                given.append(number)

    thread = threading.Thread(target=give)
    thread.start()
    thread.join(0.2)
    assert len(given) == most + 1  # one is being done
    go.set()
    thread.join()
    assert given == [0, 1, 2, 3]


def test_an_error_is_raised_when_the_next_work_is_submitted_and_later_work_is_not_done():
    done = []

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(0) as writer:
        writer.submit(lambda: done.append(1))
        writer.submit(fail)
        writer.submit(lambda: done.append(2))
    assert done == [1]


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2 GB"), (12.34e6, "12.3 MB"), (345e6, "345 MB")],
)
def test_numbers_of_bytes_are_shown_with_three_digits(count, said):
    assert size_text(count) == said and size_option(count) == said.replace(" ", "")
