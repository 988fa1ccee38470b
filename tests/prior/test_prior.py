import contextlib
import hashlib
import json
import os
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from components.prior.prior import prior
from components.shared.artifacts.artifact import GENE_PRIOR, opening
from components.shared.artifacts.licences import SE_600M, UNKNOWN, licence_of
from components.shared.model.vocabulary import vocabulary_digest
from components.shared.telling.errors import InputError

GENES = ["KLF1", "GATA1", "TP53", "NOT-A-TOKEN"]
VOCABULARY = {"TP53": 0, "AARS": 1, "GATA1": 2, "KLF1": 3, "<pad>": 4, "<cls>": 5, "<eoc>": 6}
WIDTH = 5


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(GENES), WIDTH)).astype(np.float32)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "checkpoint" / "vocab.json"
    path.parent.mkdir()
    path.write_text(json.dumps(VOCABULARY))
    return str(path)


# One writer a layout: each writes the same table.


def safetensors_matrix(path, genes, rows):
    save_arrays({"any": np.asarray(rows)}, path, metadata={"genes": json.dumps(genes)})


def safetensors_vectors(path, genes, rows):
    save_arrays({gene: np.asarray(row) for gene, row in zip(genes, rows, strict=True)}, path)


def npz_matrix(path, genes, rows):
    np.savez(path, genes=np.array(genes), embeddings=np.asarray(rows))


def npz_vectors(path, genes, rows):
    np.savez(path, **{gene: np.asarray(row) for gene, row in zip(genes, rows, strict=True)})


def frame(genes, rows):
    return pd.DataFrame(rows, columns=[f"d{i}" for i in range(np.shape(rows)[1])]).assign(
        gene=genes
    )


def parquet_column(path, genes, rows):
    frame(genes, rows).to_parquet(path)


def parquet_index(path, genes, rows):
    frame(genes, rows).set_index("gene").to_parquet(path)


def parquet_filtered(path, genes, rows):
    """A frame whose leftover numeric index is a column of the file, and categories as symbols."""
    table = frame(["drop", *genes], np.vstack([rows[:1], rows]))
    table["gene"] = table["gene"].astype("category")
    kept = table.iloc[list(range(1, len(table)))]
    kept.to_parquet(path)
    assert "__index_level_0__" in pq.read_schema(path).names


def pt_dict(path, genes, rows):
    torch.save({g: torch.tensor(row) for g, row in zip(genes, rows, strict=True)}, path)


def pt_legacy(path, genes, rows):
    table = {g: torch.tensor(row) for g, row in zip(genes, rows, strict=True)}
    torch.save(table, path, _use_new_zipfile_serialization=False)


WRITERS = {
    safetensors_matrix: ".safetensors",
    safetensors_vectors: ".safetensors",
    npz_matrix: ".npz",
    npz_vectors: ".npz",
    parquet_column: ".parquet",
    parquet_index: ".parquet",
    parquet_filtered: ".parquet",
    pt_dict: ".pt",
    pt_legacy: ".pt",
}
MATRICES = (safetensors_matrix, npz_matrix, parquet_column)
VECTORS = (safetensors_vectors, npz_vectors, pt_dict)
every_layout = pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)


def table_of(folder, write, genes, rows):
    path = folder / f"table{WRITERS[write]}"
    write(path, genes, rows)
    return path


def aligned(folder) -> torch.Tensor:
    return load_file(folder / "prior.safetensors")["prior"]


@every_layout
def test_every_layout_aligns_to_the_tokens(tmp_path, vocabulary, rows, write, capsys):
    path = table_of(tmp_path, write, GENES, rows)
    prior(str(path), vocabulary, tmp_path / "prior")
    expected = np.zeros((len(VOCABULARY), WIDTH), np.float32)
    expected[[3, 2, 0]] = rows[:3]
    found = aligned(tmp_path / "prior")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)
    with safe_open(tmp_path / "prior" / "prior.safetensors", "np") as file:
        named = json.loads(file.metadata()["genes"])
    assert {gene: row for row, gene in enumerate(named)} == VOCABULARY
    artifact = opening(tmp_path / "prior", GENE_PRIOR)
    facts = json.loads((tmp_path / "prior" / "prior.json").read_text())
    assert (
        facts
        == artifact.summary
        == {
            "kind": "table",
            "source": str(path),
            "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "licence": UNKNOWN,
            "width": WIDTH,
            "tokens": 7,
            "table_genes": 4,
            "vocabulary_genes": 4,
            "vocabulary_sha256": vocabulary_digest(VOCABULARY),
            "covered_genes": 3,
            "covered_fraction": 0.75,
            "table_genes_not_in_vocabulary": 1,
            "table_genes_all_zero": 0,
            "genes_by_alias": 0,
            "ambiguous_names": [],
            "sources": [
                {
                    "kind": "table",
                    "source": str(path),
                    "sha256": facts["source_sha256"],
                    "licence": UNKNOWN,
                }
            ],
        }
    )
    said = "3 genes have a vector, of 4 in the table, of 4 of the vocabulary (75.0%)"
    assert said in capsys.readouterr().out
    with safe_open(tmp_path / "prior" / "prior.safetensors", "np") as file:
        tokens = json.loads(file.metadata()["genes"])
    assert tokens == list(VOCABULARY)


@pytest.mark.parametrize("write", [safetensors_matrix, npz_matrix, parquet_index, pt_dict])
@settings(max_examples=12, deadline=None)
@given(
    genes=st.sets(st.text("ABC-", min_size=1, max_size=4), min_size=1, max_size=12),
    in_table=st.data(),
    width=st.integers(1, 4),
)
def test_each_token_has_its_genes_vector_or_none(write, genes, in_table, width, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior")
    tokens = in_table.draw(st.permutations([*sorted(genes), "<pad>"]))
    others = in_table.draw(st.sets(st.text("XYZ", min_size=1, max_size=3)))
    kept = in_table.draw(st.sets(st.sampled_from(sorted(genes)), min_size=1))
    names = in_table.draw(st.permutations(sorted(kept | others)))
    values = np.arange(1, 1 + len(names) * width, dtype=np.float32).reshape(len(names), width)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    prior(str(table_of(folder, write, names, values)), str(folder), folder / "prior")
    found = aligned(folder / "prior").numpy()
    for i, token in enumerate(tokens):
        wanted = values[names.index(token)] if token in names else np.zeros(width)
        np.testing.assert_array_equal(found[i], wanted)


def test_the_table_names_its_rows_and_licence_in_a_fixed_order(tmp_path, vocabulary, rows):
    safetensors_matrix(tmp_path / "table.safetensors", GENES, rows)
    for number in range(12):  # safetensors alone writes two keys in the order of a coin's throw
        prior(str(tmp_path / "table.safetensors"), vocabulary, tmp_path / f"prior{number}")
        written = (tmp_path / f"prior{number}" / "prior.safetensors").read_bytes()
        header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
        assert list(header["__metadata__"]) == ["genes", "license"]


def test_none_writes_no_table(tmp_path, vocabulary):
    prior("none", vocabulary, tmp_path / "prior")
    artifact = opening(tmp_path / "prior", GENE_PRIOR)
    assert artifact.summary["kind"] == "none"
    assert sorted(artifact.provenance["files"]) == ["prior.json"]


def test_the_packaged_vocabulary_serves_models_that_start_fresh(tmp_path, rows):
    path = table_of(tmp_path, pt_dict, GENES, rows)
    prior(str(path), "random://tiny", tmp_path / "prior")
    assert aligned(tmp_path / "prior").shape == (60697, WIDTH)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32, torch.bool]
)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_other_number_types_become_float32(tmp_path, vocabulary, dtype, ending):
    table = {"KLF1": torch.tensor([1, 0, 2]).to(dtype)}
    path = tmp_path / f"table{ending}"
    (torch.save if ending == ".pt" else save_file)(table, path)
    prior(str(path), vocabulary, tmp_path / "prior")
    expected = table["KLF1"].float()
    assert torch.equal(aligned(tmp_path / "prior")[3], expected)


def test_special_tokens_get_no_prior_and_zero_vectors_are_counted(tmp_path, vocabulary, rows):
    rows[1] = 0
    path = table_of(tmp_path, npz_matrix, ["KLF1", "TP53", "<pad>", "X"], rows)
    prior(str(path), vocabulary, tmp_path / "prior")
    assert not aligned(tmp_path / "prior")[VOCABULARY["<pad>"]].any()
    facts = json.loads((tmp_path / "prior" / "prior.json").read_text())
    assert facts["covered_genes"] == 1
    assert facts["table_genes_all_zero"] == 1
    assert facts["table_genes_not_in_vocabulary"] == 2


# Licences and secrets -----------------------------------------------------------------------------


def test_the_file_names_its_licence(tmp_path, vocabulary, rows):
    save_arrays(
        {"t": rows},
        tmp_path / "a.safetensors",
        metadata={"genes": json.dumps(GENES), "license": "MIT"},
    )
    table = pa.Table.from_pandas(frame(GENES, rows))
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"license": b"CC-BY-4.0"}),
        tmp_path / "b.parquet",
    )
    for file, licence in (("a.safetensors", "MIT"), ("b.parquet", "CC-BY-4.0")):
        prior(str(tmp_path / file), vocabulary, tmp_path / f"prior-{file}")
        facts = json.loads((tmp_path / f"prior-{file}" / "prior.json").read_text())
        assert facts["licence"] == licence


@pytest.mark.parametrize("there", [True, False])
def test_a_copy_of_the_state_models_licence_goes_along(tmp_path, vocabulary, capsys, there):
    torch.save({gene: torch.ones(2) for gene in GENES}, tmp_path / "protein_embeddings.pt")
    if there:
        (tmp_path / "MODEL_LICENSE.md").write_text("whole and unaltered\n")
    prior(str(tmp_path / "protein_embeddings.pt"), vocabulary, tmp_path / "prior")
    copy = tmp_path / "prior" / "STATE_MODEL_LICENSE.md"
    assert (copy.read_text() == "whole and unaltered\n") if there else not copy.exists()
    warned = "no MODEL_LICENSE.md beside" in capsys.readouterr().err
    assert warned != there


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("hf://models/arcinstitute/SE-600M/protein_embeddings.pt", SE_600M),
        ("hf://models/arcinstitute/SE-600M/protein_embeddings.pt@refs/pr/1", SE_600M),
        ("https://mirror.example/x/protein_embeddings.pt?…", SE_600M),
        ("copies/protein_embeddings.pt", SE_600M),
        ("my_protein_embeddings.pt", UNKNOWN),
    ],
)
def test_the_non_commercial_table_is_known_wherever_it_lies(source, licence):
    assert licence_of(source, "") == licence


def test_no_secret_of_a_signed_url_is_kept_or_told(tmp_path):
    signed = "https://127.0.0.1:1/t.csv?X-Signature=hush"
    with pytest.raises(InputError) as error:
        prior(signed, "random://tiny", tmp_path / "prior")
    assert "hush" not in str(error.value)
    prior("none", f"random://tiny?vocabulary={signed}", tmp_path / "prior")
    assert "hush" not in (tmp_path / "prior" / "provenance.json").read_text()


# Bad input ----------------------------------------------------------------------------------------


def refused(tmp_path, uri, vocabulary, message):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as error:
        prior(str(uri), vocabulary, tmp_path / "prior")
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
    return str(error.value)


@pytest.mark.parametrize("uri", ["nope", "non", "", "esm3", "table.csv", "hf://models/a/b"])
def test_an_unknown_prior_is_told_what_is_allowed(tmp_path, vocabulary, uri):
    said = refused(tmp_path, uri, vocabulary, "is unknown.*allowed: none, table:<uri>, graph:<uri>")
    for allowed in (".safetensors", ".npz", ".parquet", ".pt", "gs://", "hf://", "https://"):
        assert allowed in said


def test_an_unknown_scheme_and_a_missing_file_are_told(tmp_path, vocabulary):
    refused(tmp_path, "az://bucket/table.pt", vocabulary, "'az://' is not allowed; allowed: a path")
    refused(tmp_path, tmp_path / "no.pt", vocabulary, "no.pt: no such file")


def test_a_digest_that_does_not_match_is_refused(tmp_path, vocabulary, rows):
    path = table_of(tmp_path, pt_dict, GENES, rows)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    refused(tmp_path, f"{path}#sha256={'0' * 64}", vocabulary, f"sha256 is {digest}, expected 000")
    prior(f"{path}#sha256={digest}", vocabulary, tmp_path / "prior")
    facts = json.loads((tmp_path / "prior" / "prior.json").read_text())
    assert facts["source"] == str(path)


@every_layout
def test_a_table_without_a_gene_of_the_vocabulary_shows_both(tmp_path, vocabulary, rows, write):
    genes = [f"ENSG{i}" for i in range(4)]
    path = table_of(tmp_path, write, genes, rows)
    message = r"4 genes \('ENSG0', 'ENSG1', 'ENSG2'\), the vocabulary 4 \('GATA1', 'KLF1', 'TP53'\)"
    refused(tmp_path, path, vocabulary, message)


@every_layout
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_names_its_gene(tmp_path, vocabulary, rows, write, value):
    rows[3, 2] = value  # of a gene that the vocabulary lacks: the table is still not sound
    path = table_of(tmp_path, write, GENES, rows)
    refused(tmp_path, path, vocabulary, f"gene 'NOT-A-TOKEN' has {value} at position 2")


def test_a_number_too_large_for_float32_is_not_made_infinite(tmp_path, vocabulary, rows):
    big = rows.astype(np.float64)
    big[1, 0] = 1e300
    refused(
        tmp_path, table_of(tmp_path, npz_matrix, GENES, big), vocabulary, r"'GATA1' has 1e\+300"
    )


@pytest.mark.parametrize("write", VECTORS, ids=lambda write: write.__name__)
def test_widths_that_differ_name_the_genes(tmp_path, vocabulary, rows, write):
    ragged = [rows[0], rows[1], rows[2][:3], rows[3]]
    path = table_of(tmp_path, write, ["A", "B", "TP53", "Z"], ragged)
    refused(tmp_path, path, vocabulary, r"gene '(TP53|Z)' has \d numbers, '\w+' has \d; expected")


@pytest.mark.parametrize("write", VECTORS, ids=lambda write: write.__name__)
def test_entries_that_are_no_vector_name_the_gene(tmp_path, vocabulary, rows, write):
    path = table_of(tmp_path, write, ["KLF1"], [rows])
    refused(tmp_path, path, vocabulary, r"gene 'KLF1' has shape \[4, 5\]; expected one vector")


@pytest.mark.parametrize("write", MATRICES, ids=lambda write: write.__name__)
def test_a_symbol_that_comes_twice_is_named(tmp_path, vocabulary, rows, write):
    path = table_of(tmp_path, write, ["KLF1", "X", "TP53", "X"], rows)
    refused(tmp_path, path, vocabulary, "gene 'X' comes more than once")


@pytest.mark.parametrize("write", [safetensors_matrix, npz_matrix], ids=lambda w: w.__name__)
def test_names_and_rows_must_be_as_many(tmp_path, vocabulary, rows, write):
    path = table_of(tmp_path, write, GENES[:3], rows)
    refused(tmp_path, path, vocabulary, r"shape \[4, 5\] for 3 gene names")


@pytest.mark.parametrize("write", MATRICES, ids=lambda write: write.__name__)
def test_an_empty_table_is_refused(tmp_path, vocabulary, rows, write):
    path = tmp_path / f"table{WRITERS[write]}"
    if write is npz_matrix:
        np.savez(path, genes=np.array([], dtype="U3"), embeddings=rows[:0])
    elif write is parquet_column:
        frame(GENES, rows).iloc[:0].astype({"gene": "string"}).to_parquet(path)
    else:
        write(path, [], rows[:0])
    refused(tmp_path, path, vocabulary, "holds no gene")


@every_layout
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, vocabulary, rows, write, damage):
    path = table_of(tmp_path, write, GENES, rows)
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "garbage": b"no table " * 40, "empty": b""}[damage]
    )
    refused(tmp_path, path, vocabulary, r"not readable as|refused by|holds a")


def test_bits_flipped_anywhere_never_escape_as_another_error(tmp_path, vocabulary, rows):
    rng = np.random.default_rng(0)
    for write in WRITERS:
        path = table_of(tmp_path, write, GENES, rows)
        whole = path.read_bytes()
        for number in range(25):
            damaged = bytearray(whole)
            for position in rng.integers(len(whole), size=3):
                damaged[position] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            # A flip in a number or a name may well leave a table that can be read.
            with contextlib.suppress(InputError):
                prior(str(path), vocabulary, tmp_path / f"{write.__name__}-{number}")


class Evil:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["torch zip", "torch legacy", "plain pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, vocabulary, form):
    mark = tmp_path / "it-ran"
    path = tmp_path / "table.pt"
    table = {"KLF1": torch.ones(3), "TP53": Evil(mark)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(table))
    else:
        torch.save(table, path, _use_new_zipfile_serialization=form == "torch zip")
    refused(
        tmp_path, path, vocabulary, r"refused by torch.load\(weights_only=True\), nothing in it"
    )
    assert not mark.exists()
    # The file is a real one: loaded without the guard it does run.
    with contextlib.suppress(RuntimeError, pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_arrays_of_objects_are_refused_and_not_unpickled(tmp_path, vocabulary, rows):
    mark = tmp_path / "it-ran"
    path = tmp_path / "table.npz"
    np.savez(path, genes=np.array(GENES), embeddings=np.array([Evil(mark)], dtype=object))
    refused(tmp_path, path, vocabulary, "'embeddings' cannot be read.*allow_pickle=False")
    np.savez(path, KLF1=np.array([Evil(mark)], dtype=object))
    refused(tmp_path, path, vocabulary, "'KLF1' cannot be read")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([torch.ones(3)], "holds a list; expected a dict of gene symbol to tensor"),
        ({"KLF1": [1.0, 2.0]}, "entry 'KLF1' is a list"),
        ({3: torch.ones(3)}, "entry 3 is a Tensor; expected gene symbol to tensor"),
        ({"KLF1": torch.ones(3, dtype=torch.complex64)}, "complex64 tensor; expected plain real"),
        ({"KLF1": torch.ones(3).to_sparse()}, "expected plain real numbers"),
        ({"KLF1": torch.tensor(1.0)}, r"gene 'KLF1' has shape \[\]"),
        ({}, "holds no gene"),
    ],
)
def test_a_pt_of_another_layout_is_refused(tmp_path, vocabulary, table, message):
    torch.save(table, tmp_path / "table.pt")
    refused(tmp_path, tmp_path / "table.pt", vocabulary, message)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"d0": [1.0], "d1": [2.0]}, "no column of gene symbols"),
        ({"gene": ["KLF1"]}, "no column of numbers; expected numbers in every column but 'gene'"),
        ({"gene": ["KLF1"], "d0": [1.0], "note": ["x"]}, "column 'note' is .*string; expected num"),
        ({"gene": ["KLF1", None], "d0": [1.0, 2.0]}, "'gene' has an empty gene symbol"),
        ({"gene": ["KLF1"], "d0": [[1.0]]}, "column 'd0' is list"),
    ],
)
def test_a_parquet_of_another_layout_is_refused(tmp_path, vocabulary, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    refused(tmp_path, tmp_path / "table.parquet", vocabulary, message)


def test_a_parquet_with_two_columns_of_a_name_is_refused(tmp_path, vocabulary):
    table = pa.table([["KLF1"], [1.0], [2.0]], names=["gene", "d", "d"])
    pq.write_table(table, tmp_path / "table.parquet")
    refused(tmp_path, tmp_path / "table.parquet", vocabulary, "column 'd' comes more than once")


def test_a_missing_number_in_a_parquet_names_its_gene(tmp_path, vocabulary):
    pq.write_table(
        pa.table(
            {"gene": ["KLF1"], "d0": [1], "d1": [None]},
            schema=pa.schema({"gene": pa.string(), "d0": pa.int64(), "d1": pa.int64()}),
        ),
        tmp_path / "table.parquet",
    )
    refused(tmp_path, tmp_path / "table.parquet", vocabulary, "gene 'KLF1' has nan at position 1")


@pytest.mark.parametrize("genes", ['{"KLF1": 0}', "KLF1,TP53", "[1, 2]"])
def test_gene_names_in_safetensors_metadata_must_be_a_json_list(tmp_path, vocabulary, rows, genes):
    save_arrays({"t": rows}, tmp_path / "t.safetensors", metadata={"genes": genes})
    refused(tmp_path, tmp_path / "t.safetensors", vocabulary, "'genes' is not a JSON list")


def test_gene_names_fit_one_tensor_only(tmp_path, vocabulary, rows):
    names = {"genes": json.dumps(GENES)}
    save_arrays({"a": rows, "b": rows}, tmp_path / "t.safetensors", metadata=names)
    refused(tmp_path, tmp_path / "t.safetensors", vocabulary, "has 2 tensors; expected one")


def test_an_npy_named_npz_is_refused(tmp_path, vocabulary, rows):
    with (tmp_path / "t.npz").open("wb") as file:
        np.save(file, rows)
    refused(tmp_path, tmp_path / "t.npz", vocabulary, "is a single array")


def test_a_vocabulary_that_is_none_is_refused(tmp_path, rows):
    path = table_of(tmp_path, pt_dict, GENES, rows)
    (tmp_path / "vocab.json").write_text("{}")
    refused(tmp_path, path, str(tmp_path / "vocab.json"), "token '<pad>' is missing")
    refused(tmp_path, path, str(tmp_path / "nowhere"), "no such folder")


def test_a_target_that_exists_is_kept(tmp_path, vocabulary):
    prior("none", vocabulary, tmp_path / "prior")
    with pytest.raises(InputError, match="exists already"):
        prior("none", vocabulary, tmp_path / "prior")
