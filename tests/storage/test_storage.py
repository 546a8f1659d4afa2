"""Storage: files are complete or absent, errors are distinguished in one line, and contain no secrets."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import DriveError, StorageError
from pipeline.storage import NotFoundError, RefusedError, UnreachableError, stores
from tests.s3_proxy import S3Proxy
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, s3, s3_server  # noqa: F401


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.fixture
def memory(request):
    fsspec.get_filesystem_class("memory").store.clear()
    return f"memory://{request.node.name}"


def test_a_local_path_is_made_absolute_and_other_uris_are_not_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("drives/90") == f"{tmp_path}/drives/90"
    assert storage.absolute(f"file://{tmp_path}/x") == f"{tmp_path}/x"
    assert storage.absolute("s3://bucket/drives") == "s3://bucket/drives"
    assert storage.is_local("drives") and not storage.is_local("s3://bucket/drives")


def test_names_are_joined_below_a_folder():
    assert storage.join("s3://b/out/", "90", "poses.parquet") == "s3://b/out/90/poses.parquet"
    assert storage.join("/out", "points/part-0.parquet") == "/out/points/part-0.parquet"
    assert storage.join("/", "x") == "/x"
    assert storage.join("memory://", "x") == "memory://x"


CLIMBERS = ["..", "../x", "a/../b", "/etc/passwd", "", "a//b", ".", "s3://other/x", "a\0b"]


@pytest.mark.parametrize("name", CLIMBERS)
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    with pytest.raises(StorageError, match="not a plain name"):
        storage.join("/out", name)


@given(st.lists(st.text(alphabet="ab09._-", min_size=1).filter(lambda s: s not in (".", "..")), min_size=1))
def test_a_uri_is_split_into_its_folder_and_its_last_name(names):
    for root in ("s3://bucket", "/data", "memory://root"):
        whole = storage.join(root, *names)
        assert storage.parent_and_name(whole) == (storage.join(root, *names[:-1]), names[-1])


def test_the_root_of_a_store_has_no_parent():
    assert storage.parent_and_name("s3://bucket") == ("", "bucket")
    assert storage.parent_and_name("/data/") == ("/", "data")


@pytest.mark.parametrize("drive_id", ["90", "2011_09_30_drive_0028", "a", "A-b.c_d", "x" * 128, "-x"])
def test_ordinary_drive_ids_are_accepted(drive_id):
    assert storage.check_drive_id(drive_id) == drive_id


@pytest.mark.parametrize(
    "drive_id",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\n", "x" * 129, "a:b", "%2e%2e", "a\0"],
)
def test_unsafe_drive_ids_are_refused(drive_id):
    with pytest.raises(DriveError, match="drive id") as raised:
        storage.check_drive_id(drive_id)
    one_line(raised.value)


def test_bytes_come_back_from_disk_and_memory(tmp_path, memory):
    for root in (str(tmp_path), memory):
        uri = storage.join(root, "deep", "er", "file.bin")
        assert not storage.exists(uri)
        storage.write_bytes_atomically(uri, b"one")
        storage.write_bytes_atomically(uri, b"two, longer")
        assert storage.read_bytes(uri) == b"two, longer"
        assert storage.read_bytes(uri, limit=3) == b"two"
        assert storage.exists(uri) and storage.exists(storage.join(root, "deep"))
        with storage.open_input(uri) as file:
            file.seek(5)
            assert file.read() == b"longer"


def test_a_listing_contains_only_files_and_their_sizes(tmp_path, memory):
    for root in (str(tmp_path), memory):
        for name, data in (("b.png", b"12"), ("a.png", b"1"), (".hidden", b""), ("folder/c.png", b"123")):
            storage.write_bytes_atomically(storage.join(root, name), data)
        files = storage.list_files(root)
        assert [(file.name, file.size) for file in files] == [(".hidden", 0), ("a.png", 1), ("b.png", 2)]
        assert all(storage.read_bytes(file.uri) == b"12"[: file.size] for file in files)


def test_the_error_for_a_missing_file_names_it(tmp_path, memory):
    (tmp_path / "file").write_bytes(b"")
    for root in (str(tmp_path), memory):
        for call in (storage.read_bytes, storage.list_files, storage.stored_file, storage.fetch_to_cache):
            with pytest.raises(NotFoundError, match="no such file or folder") as raised:
                call(storage.join(root, "missing"))
            assert "missing" in one_line(raised.value)
    with pytest.raises(NotFoundError, match=r"expected a folder .* got a file"):
        storage.list_files(str(tmp_path / "file"))
    with pytest.raises(NotFoundError, match=r"expected a file .* got a folder"):
        storage.stored_file(str(tmp_path))


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    target = tmp_path / "taken"
    (target / "child").mkdir(parents=True)  # a folder where the file should go: the rename must fail
    calls = (
        lambda: storage.write_bytes_atomically(str(target), b"x"),
        lambda: storage.upload(__file__, str(target)),
    )
    for write in calls:
        with pytest.raises(StorageError, match="cannot write"):
            write()
    assert os.listdir(tmp_path) == ["taken"]


def test_a_write_that_the_disk_refuses_is_reported_and_leaves_no_incomplete_file(tmp_path):
    # A new process with a limit on file sizes: the kernel stops the write midway, as on a full disk.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from pipeline import storage; storage.write_bytes_atomically(sys.argv[1], b'x' * 5000)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stderr.strip().splitlines()[-1]
    assert said == f"pipeline.errors.StorageError: cannot write {tmp_path}/out: File too large"
    assert os.listdir(tmp_path) == []


def test_upload_copies_the_whole_file(tmp_path, memory):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    for uri in (str(tmp_path / "out" / "copy"), storage.join(memory, "copy")):
        storage.upload(source, uri)
        assert storage.read_bytes(uri) == source.read_bytes()


def test_folders_are_removed_but_never_a_whole_store(tmp_path, memory):
    for root in (str(tmp_path), memory):
        storage.write_bytes_atomically(storage.join(root, "drive", "points", "part"), b"x")
        storage.write_bytes_atomically(storage.join(root, "other"), b"x")
        storage.remove_tree(storage.join(root, "drive"))
        storage.remove_tree(storage.join(root, "drive"))  # removing a missing folder is allowed
        assert not storage.exists(storage.join(root, "drive")) and storage.exists(storage.join(root, "other"))
    for uri in ("/", "memory://", "s3://bucket", "s3://bucket/"):
        with pytest.raises(StorageError, match="whole store or bucket"):
            storage.remove_tree(uri)


def test_an_unknown_store_gives_a_one_line_error():
    with pytest.raises(StorageError, match="Protocol not known: nope") as raised:
        storage.read_bytes("nope://bucket/x")
    one_line(raised.value)


def test_credentials_do_not_reach_messages(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecretkey")
    text = storage.redacted("http://me:pw@host/x?X-Amz-Signature=abc&n=1 and verysecretkey, s3://bucket/a@b")
    assert text == "http://***@host/x?*** and ***, s3://bucket/a@b"


def test_local_weights_are_used_in_their_place(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"w")
    assert storage.fetch_to_cache(str(tmp_path / "w.pt"), tmp_path / "cache") == tmp_path / "w.pt"
    assert not (tmp_path / "cache").exists()


def test_weights_are_fetched_once_and_again_when_they_change(tmp_path, memory):
    uri = storage.join(memory, "w.pt")
    storage.write_bytes_atomically(uri, b"first")
    first = storage.fetch_to_cache(uri, tmp_path)
    stamp = first.stat().st_mtime_ns
    assert first.read_bytes() == b"first" and first.name.endswith("w.pt")
    assert storage.fetch_to_cache(uri, tmp_path) == first and first.stat().st_mtime_ns == stamp
    storage.write_bytes_atomically(uri, b"second")
    assert storage.fetch_to_cache(uri, tmp_path).read_bytes() == b"second"


@pytest.mark.cluster
class TestOnS3:
    def test_objects_are_written_listed_and_removed(self, s3, tmp_path):  # noqa: F811
        root = storage.join(s3, "storage")
        storage.make_dir(root)
        storage.write_bytes_atomically(storage.join(root, "a", "one.bin"), b"hello")
        storage.write_bytes_atomically(storage.join(root, "a", "empty"), b"")
        (tmp_path / "big").write_bytes(os.urandom(300_000))
        storage.upload(tmp_path / "big", storage.join(root, "a", "big"))
        files = storage.list_files(storage.join(root, "a"))
        assert [(file.name, file.size) for file in files] == [("big", 300_000), ("empty", 0), ("one.bin", 5)]
        assert files[2].etag == "5d41402abc4b2a76b9719d911017c592"
        assert storage.stored_file(files[2].uri) == files[2]
        assert storage.list_files(root) == []  # the bucket contains only a folder
        assert storage.read_bytes(files[0].uri) == (tmp_path / "big").read_bytes()
        assert storage.read_bytes(files[2].uri, limit=3) == b"hel"
        assert storage.read_bytes(files[1].uri, limit=3) == b""
        with storage.open_input(files[0].uri) as file:
            file.seek(299_990)
            assert file.read() == (tmp_path / "big").read_bytes()[-10:]
        storage.remove_tree(storage.join(root, "a"))
        assert not any(storage.exists(file.uri) for file in files)  # the empty folder may stay

    def test_a_missing_bucket_is_distinguished_from_a_missing_object(self, s3):  # noqa: F811
        for call in (storage.list_files, storage.read_bytes):
            with pytest.raises(NotFoundError, match="no such bucket: s3://nobody-made-this"):
                call("s3://nobody-made-this/drives")
            with pytest.raises(NotFoundError, match="no such file or folder: s3://tests/nothing-here"):
                call(storage.join(s3, "nothing-here"))
        with pytest.raises(NotFoundError, match="no such bucket: s3://nobody-made-this"):
            storage.write_bytes_atomically("s3://nobody-made-this/x", b"x")
        assert not storage.exists("s3://nobody-made-this") and not storage.exists("s3://nobody-made-this/x")
        assert storage.exists(s3)

    def test_the_error_for_a_refused_key_does_not_contain_the_key(self, s3, monkeypatch):  # noqa: F811
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-one")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        calls = (
            lambda: storage.list_files(s3),
            lambda: storage.read_bytes(storage.join(s3, ".ready")),
            lambda: storage.exists(storage.join(s3, ".ready")),
            lambda: storage.write_bytes_atomically(storage.join(s3, "x"), b"x"),
        )
        for call in calls:
            with pytest.raises(RefusedError, match="check the credentials") as raised:
                call()
            assert "not-the-right-one" not in one_line(raised.value) and SECRET_KEY not in str(raised.value)

    def test_missing_credentials_are_reported_as_a_refusal(self, s3, monkeypatch, tmp_path):  # noqa: F811
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        with pytest.raises(RefusedError, match="Unable to locate credentials"):
            storage.list_files(s3)

    def test_an_endpoint_without_a_server_is_unreachable(self, s3, monkeypatch):  # noqa: F811
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for call in (storage.list_files, storage.exists, storage.read_bytes):
            with pytest.raises(UnreachableError, match="does not answer") as raised:
                call(storage.join(s3, "x"))
            one_line(raised.value)

    def test_an_endpoint_that_never_answers_is_given_up(self, s3, monkeypatch):  # noqa: F811
        monkeypatch.setattr(stores, "READ_TIMEOUT_S", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            with pytest.raises(UnreachableError, match="does not answer"):
                storage.read_bytes(storage.join(s3, "x"))

    def test_an_endpoint_that_answers_503_is_unreachable(self, s3, monkeypatch):  # noqa: F811
        with socket.create_server(("127.0.0.1", 0)) as sick:
            threading.Thread(target=_answer_503, args=(sick,), daemon=True).start()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{sick.getsockname()[1]}")
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            for call in (storage.read_bytes, storage.list_files, storage.exists):
                with pytest.raises(UnreachableError):
                    call(storage.join(s3, "x"))

    def test_several_processes_download_weights_only_once(self, s3, s3_server: S3Server, tmp_path):  # noqa: F811
        uri = storage.join(s3, "weights", "w.bin")
        storage.write_bytes_atomically(uri, os.urandom(2_000_000))
        script = "import sys; from pipeline import storage; print(storage.fetch_to_cache(*sys.argv[1:]))"
        command = [sys.executable, "-c", script, uri, str(tmp_path)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        places = {process.communicate()[0].strip() for process in processes}
        assert len(places) == 1
        assert Path(places.pop()).read_bytes() == storage.read_bytes(uri)
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".lock"]


def _answer_503(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            head = b"HTTP/1.1 503 Service Unavailable"
            connection.sendall(head + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def other_store(tmp_path_factory):
    """A second S3 server with a bucket of its own; yields its endpoint."""
    server = S3Server(tmp_path_factory.mktemp("other-s3"))
    server.start()
    server.client().create_bucket(Bucket="results")
    yield server.endpoint
    server.stop()


@pytest.mark.cluster
@pytest.mark.slow
def test_buckets_may_lie_on_different_stores(s3, other_store, tmp_path, monkeypatch):  # noqa: F811
    config = tmp_path / "config"
    config.write_text(
        f"[profile theirs]\nendpoint_url = {other_store}\nregion = us-east-1\n"
        f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("CITY_S3_PROFILES", "results=theirs")
    storage.write_bytes_atomically("s3://results/x/file", b"there")
    storage.write_bytes_atomically(f"{s3}/x/file", b"here")
    assert storage.read_bytes("s3://results/x/file") == b"there"
    assert storage.read_bytes(f"{s3}/x/file") == b"here"
    # the keys in the environment are valid for the first store only
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert storage.read_bytes("s3://results/x/file") == b"there"
    with pytest.raises(RefusedError):
        storage.read_bytes(f"{s3}/x/file")
    monkeypatch.delenv("CITY_S3_PROFILES")
    with pytest.raises(StorageError):
        storage.read_bytes("s3://results/x/file")  # without its profile the bucket is not found


@pytest.mark.parametrize(
    ("said", "message"), [("results", "expected bucket=profile"), ("results=nobody", "no profile 'nobody'")]
)
def test_invalid_profiles_give_a_one_line_error(monkeypatch, said, message):
    monkeypatch.setenv("CITY_S3_PROFILES", said)
    with pytest.raises(StorageError, match=message):
        storage.read_bytes("s3://results/x")


@pytest.mark.cluster
def test_an_object_is_read_with_one_request(s3, s3_server, monkeypatch):  # noqa: F811
    storage.write_bytes_atomically("s3://tests/one-request", b"x" * 1000)
    proxy, asked = S3Proxy(s3_server.ports[0]), []
    proxy.fault = lambda method, path: asked.append((method, path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        assert storage.read_bytes("s3://tests/one-request") == b"x" * 1000
    finally:
        proxy.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert asked == [("GET", "/tests/one-request")]
