"""Listings are columns that read like files; pages of S3 are parsed as by botocore, at a thirtieth of its cost."""

import html
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.ingest.drives import frames_of, is_image_name
from pipeline.ingest.frame_series import natural_key
from pipeline.storage import Listing, StoredFile
from pipeline.storage.s3_pages import take_files_out
from tests.s3_server import s3, s3_server  # noqa: F401

ODD = "odd \udcff name.png"  # a local name that is not valid UTF-8


def listing(names, folder="s3://b/drive"):
    return Listing(folder, names, range(len(names)), [None if n % 2 else f"etag{n}" for n in range(len(names))])


def test_a_listing_reads_like_a_list_of_files():
    files = listing(["a.png", "b.png", ODD])
    assert files[1] == StoredFile("s3://b/drive/b.png", "b.png", 1, None) and files[-1].name == ODD
    assert list(files) == [files[0], files[1], files[2]] == files
    assert files[1:] == listing(["a.png", "b.png", ODD]).take([1, 2]) and files[1:].names == ["b.png", ODD]
    assert list(files.uris) == [file.uri for file in files] == [files.uri(n) for n in range(3)]
    assert files.uris[1:][0] == files[1].uri
    assert pickle.loads(pickle.dumps(files)) == files and files.total_size == 3
    assert Listing.of(list(files)) == files and Listing.of([]) == [] and not files.take([])
    with pytest.raises(IndexError):
        files[3]


def test_a_listing_is_small():
    names, etags = [f"{n:06d}.png" for n in range(5000)], [f"{n:032x}" for n in range(5000)]
    many = Listing("s3://b/drive", names, [9] * 5000, etags)
    assert len(pickle.dumps(many)) < 70 * 5000  # one StoredFile with its texts takes 450 bytes


SOME_NAMES = st.lists(st.text('aZ09."\\ é\x1f\udcff%', min_size=1, max_size=4), unique=True, max_size=6)


@given(SOME_NAMES, st.booleans())
def test_rows_made_from_columns_equal_what_json_writes(names, sort):
    files = listing(names)
    files = files.in_order_of_text() if sort else files
    rows = sorted((file.name, file.size, file.etag or "") for file in files)
    found = files.json_rows()
    if found is None:
        escaped = any(not " " <= c <= "~" or c in '"\\' for c in "".join(names))
        assert escaped or sorted(names) != names
    else:
        assert found.decode() == json.dumps(rows, separators=(",", ":"))[1:-1]


@given(SOME_NAMES)
def test_a_listing_has_a_pattern_exactly_where_names_differ_only_in_digits(names):
    patterns = {"".join("0" if c in "0123456789" else c for c in name) for name in names}
    plain = len(patterns) == 1 and "".join(patterns).isascii()
    assert listing(names).pattern == (patterns.pop() if plain else None)


@given(SOME_NAMES)
def test_files_are_listed_in_the_order_of_the_bytes_of_their_names(names):
    expected = sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape"))
    assert listing(names).in_order_of_text().names == expected


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:06d}.png" for n in range(40)],
        [f"frame{n}.png" for n in range(40)],
        ["2.png", "02.png", "1.jpg"],
        [f"{n:02d}.txt" for n in range(9)],
        ["a1.png", "b1.png", "notes.txt", ".hidden.png"],
        ["x.png"],
        [],
        ["1.png", "٢.png", "3.png"],
        [f"{n:03d}.mp4" for n in range(5)],
    ],
)
def test_the_quick_order_is_the_natural_order(names):
    expected = sorted(filter(is_image_name, names), key=natural_key)
    assert frames_of(listing(sorted(names)))[0].names == expected


def body(files, more=""):
    contents = "".join(f"<Contents><Key>{key}</Key><ETag>{etag}</ETag><Size>7</Size></Contents>" for key, etag in files)
    return f"<ListBucketResult><Name>b</Name>{contents}{more}</ListBucketResult>".encode()


def taken(text, status=200):
    response, answer = {"body": text, "status_code": status}, {}
    take_files_out(response, answer)
    files = answer.get("Contents")
    return files if files is None else list(files), response["body"]


def test_files_are_taken_out_of_a_page_and_botocore_parses_the_rest():
    folders = "<CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes>"
    files, rest = taken(body([("a%20b", "&quot;12&quot;"), ("c&amp;d", '"34"')], folders))
    assert files == [{"Key": "a%20b", "Size": 7, "ETag": "12"}, {"Key": "c&d", "Size": 7, "ETag": "34"}]
    assert rest == f"<ListBucketResult><Name>b</Name>{folders}</ListBucketResult>".encode()


def test_an_etag_equals_botocores_for_any_other_content_of_the_page():
    etags = {"W/&quot;12&quot;": "W/12", "&#x22;34&#x22;": "34", "&quot;56-2&quot;": "56-2", "a&amp;b": "a&b"}
    for page in (etags, *([etag] for etag in etags)):
        files, _ = taken(body([("a", etag) for etag in page]))
        assert [file["ETag"] for file in files] == [etags[etag] for etag in page]


def test_keys_that_botocore_decodes_in_a_page_are_kept():
    response, answer = {"body": body([("a%20b", "1")]), "status_code": 200}, {}
    take_files_out(response, answer)
    for file in answer["Contents"]:
        file["Key"] = "a b"  # as botocore's handler for encoded keys does
    assert [file["Key"] for file in answer["Contents"]] == ["a b"]


def test_pages_of_another_form_are_not_changed():
    without_etag = body([("a", "1")]).replace(b"<ETag>1</ETag>", b"")
    mixed = body([("a", "1")], "<CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes>" + body([("b", "2")]).decode())
    odd_size = body([("a", "1")]).replace(b"<Size>7", b"<Size>seven")
    pages = [without_etag, mixed, body([]), odd_size, body([("a<!-- x -->b", "1")]), body([("<![CDATA[a]]>", "1")])]
    pages.append(body([("a", "<![CDATA[1]]>")]))
    for text in pages:
        assert taken(text) == (None, text)
    assert taken(body([("a", "1")]), 503) == (None, body([("a", "1")]))


@given(st.lists(st.tuples(st.text("ab&<>é%+ /", min_size=1), st.text("0f-", min_size=1), st.sampled_from(["", "Own"]))))
def test_key_size_and_etag_are_found_beside_any_other_fields(files):
    rows = []
    for number, (key, etag, more) in enumerate(files):
        owner = "<Owner><ID>Key</ID><DisplayName>Size</DisplayName></Owner>" if more else ""
        kind = "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm>" * (number % 2)
        size = f"<Size>{number}</Size><StorageClass>STANDARD</StorageClass>"
        etag = f"<ETag>&quot;{etag}&quot;</ETag>"
        rows.append(f"<Contents>{size}{kind}{owner}<Key>{html.escape(key)}</Key>{etag}</Contents>")
    found, _ = taken(f"<ListBucketResult>{''.join(rows)}</ListBucketResult>".encode())
    expected = [{"Key": key, "Size": n, "ETag": etag} for n, (key, etag, _) in enumerate(files)]
    assert (found or []) == expected


@pytest.mark.cluster
def test_a_bucket_is_listed_as_a_plain_client_lists_it(s3, s3_server):  # noqa: F811
    names = ["plain.png", "a b.png", "a&b.png", "a<b>.png", 'quo"te.png', "100%.png", "ü.png", "a+b.png", "10.png"]
    client = s3_server.client()
    for number, name in enumerate([*names, "deeper/x.png"]):
        client.put_object(Bucket="tests", Key=f"listed/{name}", Body=b"x" * number)
    plain = client.list_objects_v2(Bucket="tests", Prefix="listed/", Delimiter="/")["Contents"]
    expected = [(one["Key"][7:], one["Size"], one["ETag"].strip('"')) for one in plain]
    files = storage.list_files(f"{s3}/listed")
    assert [(file.name, file.size, file.etag) for file in files] == sorted(expected)
    assert sorted(files.names) == sorted(names) and storage.list_folders(f"{s3}/listed") == ["deeper"]
    assert storage.read_bytes(files[3].uri) == b"x" * files[3].size


@pytest.mark.cluster
def test_only_the_folder_of_exactly_this_name_is_removed(s3, s3_server):  # noqa: F811
    client = s3_server.client()
    keys = ["my out/d/a.bin", "my+out/d/a.bin", "my%20out/d/a.bin", "my out/e/a.bin"]
    for key in keys:
        client.put_object(Bucket="tests", Key=f"removed/{key}", Body=b"x")
    storage.remove_tree(f"{s3}/removed/my out/d")
    left = client.list_objects_v2(Bucket="tests", Prefix="removed/")["Contents"]
    assert sorted(one["Key"] for one in left) == sorted(f"removed/{key}" for key in keys[1:])


@pytest.mark.cluster
def test_files_are_taken_out_of_a_page_before_it_is_parsed(s3, s3_server, monkeypatch):  # noqa: F811
    from pipeline.storage import stores

    seen, made = [], stores._s3_session

    def with_a_witness(profile):
        session = made(profile)
        events = session.get_component("event_emitter")
        events.register_first("before-parse.s3.*", lambda response_dict, **_: seen.append(response_dict["body"]))
        return session

    monkeypatch.setattr(stores, "_s3_session", with_a_witness)
    s3_server.client().put_object(Bucket="tests", Key="parsed/one.png", Body=b"x")
    assert storage.list_files(f"{s3}/parsed").names == ["one.png"]
    assert b"<Contents>" not in seen[0] and b"</ListBucketResult>" in seen[0]
