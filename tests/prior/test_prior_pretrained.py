import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.model.vocabulary import packaged_vocabulary
from components.shared.parameters.pretrained import (
    Pretrained,
    ending_of,
    parse_pretrained,
    resolve_vocabulary,
)
from components.shared.telling.errors import InputError

TOKENS = {"TP53": 0, "<pad>": 1, "<cls>": 2, "<eoc>": 3}


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(TOKENS))
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "size", "vocabulary"),
    [
        ("random://tiny", "tiny", ""),
        ("random://whole-human?vocabulary=gs://b/vocab.json", "whole-human", "gs://b/vocab.json"),
        ("RANDOM://tiny?vocabulary=a%26b+c/vocab.json", "tiny", "a&b+c/vocab.json"),
        (
            "random://tiny?vocabulary=https://h/vocab.json?sig=x%26e=1",
            "tiny",
            "https://h/vocab.json?sig=x&e=1",
        ),
        ("gs://bucket/scgpt", "", "gs://bucket/scgpt"),
        ("models/scgpt_human", "", "models/scgpt_human"),
    ],
)
def test_a_pretrained_parameter_is_taken_apart(uri, size, vocabulary):
    assert parse_pretrained(uri) == Pretrained(uri, size, vocabulary)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "pretrained is empty"),
        (" ", "pretrained is empty"),
        ("random://", "names no size"),
        ("random://huge?vocabulary=x", "size is unknown; allowed: tiny, small, whole-human"),
        ("random://?vocabulary=x", "names no size"),
        ("random://tiny?vocab=x", "'vocab' is unknown, nearest: 'vocabulary'"),
        ("random://tiny?vocabulary=a&seed=1", "'seed' is unknown"),
        ("random://tiny?vocabulary=", "one non-empty 'vocabulary'"),
        ("random://tiny?vocabulary=a&vocabulary=b", "one non-empty 'vocabulary'"),
        ("random://tiny?&", "is not a query"),
    ],
)
def test_a_malformed_parameter_is_told_in_one_line(uri, message):
    with pytest.raises(InputError, match=message) as error:
        parse_pretrained(uri)
    assert "\n" not in str(error.value)


def test_no_message_and_no_shown_form_holds_the_secrets_of_a_url():
    url = "https://u:hush@h/vocab.json?sig=hush"
    assert "hush" not in parse_pretrained(f"random://tiny?vocabulary={url}").shown
    assert "hush" not in parse_pretrained(url).shown
    with pytest.raises(InputError) as error:
        parse_pretrained(f"random://tiny?vocab={url}")
    assert "hush" not in str(error.value)


@given(st.text())
def test_any_text_is_taken_apart_or_refused(text):
    with contextlib.suppress(InputError):
        assert parse_pretrained(text).uri == text


def test_the_vocabulary_is_found_in_every_form(checkpoint):
    file = checkpoint / "vocab.json"
    for uri in (
        str(checkpoint),
        str(file),
        f"file://{file}",
        f"file://{checkpoint}",
        f"random://tiny?vocabulary={file}",
        f"random://tiny?vocabulary={checkpoint}",
    ):
        assert resolve_vocabulary(uri) == TOKENS
    assert resolve_vocabulary("random://tiny") == packaged_vocabulary()


def test_a_missing_vocabulary_is_told(tmp_path):
    for uri, message in (
        (str(tmp_path), "vocab.json: no such file"),
        (str(tmp_path / "vocab.json"), "vocab.json: no such file"),
        ("ftp://host/vocab.json", "'ftp://' is not allowed"),
        (f"random://tiny?vocabulary={tmp_path / 'x.json'}", "x.json: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_vocabulary(uri)


def test_the_vocabulary_of_a_fresh_model_is_that_of_the_published_checkpoint(shared_data):
    published = resolve_vocabulary(str(shared_data / "scgpt_human"))
    assert resolve_vocabulary("random://tiny") == published


@pytest.mark.parametrize(
    ("uri", "ending"),
    [
        ("a/table.PT", ".pt"),
        ("table.pt#sha256=" + "0" * 64, ".pt"),
        ("hf://models/a/b/dir/t.safetensors@v1.0", ".safetensors"),
        ("https://h/t.npz?sig=a.parquet", ".npz"),
        ("gs://b/t.tar.parquet", ".parquet"),
        ("at@home/t.pt", ".pt"),
        ("https://host.pt", ""),
        ("table", ""),
        ("", ""),
    ],
)
def test_the_ending_is_that_of_the_file(uri, ending):
    assert ending_of(uri) == ending
