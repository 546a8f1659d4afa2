"""Credentials are removed from every text that leaves the program."""

import pytest

from pipeline.common.secrets import learn, without_credentials, without_secrets


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    monkeypatch.setattr("pipeline.common.secrets._learned", set())


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("s3://AKIAEXAMPLE:wJalrXU/SECRETPART@bucket/drives/a", "s3://bucket/drives/a"),
        ("s3://key:secret@bucket/a/b.png", "s3://bucket/a/b.png"),
        ("https://h/a.png?X-Amz-Signature=1&x=2", "https://h/a.png"),
        ("https://u:p@ss@h:9000/a", "https://h:9000/a"),
        ("az://container/a?sv=1&sig=SASSECRET", "az://container/a"),
        ("zip://a.png::s3://k:s@bucket/x.zip", "zip://a.png::s3://bucket/x.zip"),
        ("s3://bucket/a@b.png", "s3://bucket/a@b.png"),
        ("s3://bucket/a?b=c.png", "s3://bucket/a?b=c.png"),
        ("s3://k:secret@bucket/drives/1?X-Amz-Signature=abc", "s3://bucket/drives/1"),
        ("http://127.0.0.1:9000/a@b", "http://127.0.0.1:9000/a@b"),
        ("/local/a@b?.png", "/local/a@b?.png"),
    ],
)
def test_uris_lose_their_credentials_and_nothing_else(uri, clean):
    assert without_credentials(uri) == clean
    shown = without_secrets(f"cannot read {uri}: no route")
    assert "SECRET" not in shown and "secret" not in shown and "p@ss" not in shown and shown.endswith(": no route")


def test_a_secret_from_a_uri_is_also_removed_where_a_client_repeats_it():
    learn("s3://AKIAEXAMPLE:wJalrXU/SECRETPART@bucket/x")
    learn("https://account.blob/x?sv=2024&sig=abc%2Fdefghij%3D")
    said = without_secrets("403 for wJalrXU/SECRETPART (sig abc/defghij=, abc%2Fdefghij%3D)")
    assert said == "403 for *** (sig ***, ***)"


def test_secrets_in_environment_variables_are_recognised_by_the_variables_names(monkeypatch):
    monkeypatch.setenv("MY_CLIENT_SECRET", "hunter2hunter2")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=me;AccountKey=Zm9vYmFy==;Suffix=core")
    monkeypatch.setenv("EDITOR", "viiiiiiiiim")
    assert without_secrets("hunter2hunter2 Zm9vYmFy== viiiiiiiiim") == "*** *** viiiiiiiiim"
