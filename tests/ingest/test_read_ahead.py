"""Files are read ahead: in order, as many at a time as hide the store's latency, and errors reach the right file."""

import threading
import time

import pytest

from pipeline.ingest.read_ahead import MOST_READS, Depth, read_ahead


class Store:
    """Answers after some time; notes how many reads run at a time."""

    def __init__(self, seconds=0.0):
        self.seconds, self.running, self.most, self.read_names = seconds, 0, 0, []
        self.lock = threading.Lock()

    def read(self, uri):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.read_names.append(uri)
        time.sleep(self.seconds)
        with self.lock:
            self.running -= 1
        if uri.startswith("bad"):
            raise OSError(uri)
        return uri.encode()


def test_files_come_in_order_with_their_contents():
    names = [str(number) for number in range(40)]
    assert [contents() for contents in read_ahead(names, Store().read)] == [name.encode() for name in names]
    assert list(read_ahead([], Store().read)) == []


def test_an_error_is_raised_for_its_own_file_and_the_others_are_read():
    found = []
    for contents in read_ahead(["a", "bad", "c"], Store().read):
        try:
            found.append(contents())
        except OSError as error:
            found.append(str(error))
    assert found == [b"a", "bad", b"c"]


def test_a_store_with_latency_is_asked_for_many_files_at_a_time():
    store = Store(0.5)
    for contents in read_ahead([str(number) for number in range(20)], store.read):
        contents()
    assert 6 <= store.most <= MOST_READS


def test_after_the_end_of_the_reader_no_further_file_is_read():
    store = Store(0.02)
    files = read_ahead([str(number) for number in range(100)], store.read)
    next(files)()
    files.close()
    begun = time.monotonic()
    while store.running and time.monotonic() - begun < 30:
        time.sleep(0.01)
    assert len(store.read_names) <= 4


@pytest.mark.parametrize(
    ("read_s", "work_s", "reads"), [(0.0001, 0.01, 2), (0.01, 0.01, 2), (0.1, 0.01, 11), (5.0, 0.01, MOST_READS)]
)
def test_reads_under_way_are_the_ratio_of_both_times_and_one(read_s, work_s, reads):
    depth = Depth()
    assert depth.reads == 2
    for _ in range(3):
        depth.note_read(read_s)
        depth.note_work(work_s)
    assert depth.reads == reads
