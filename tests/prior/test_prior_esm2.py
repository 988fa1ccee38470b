"""ESM2 on tiny random weights, against one sequence at a time, the real tokenizer and all."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM, EsmModel, EsmTokenizer

from components.prior import esm2
from components.prior.esm2 import LONGEST, embed, load_esm2, pieces_of
from components.prior.fasta import read_fasta
from components.prior.prior import prior
from components.shared.artifacts.artifact import GENE_PRIOR, opening
from components.shared.artifacts.licences import UNKNOWN
from components.shared.telling.errors import InputError

SPECIAL = ("<cls>", "<pad>", "<eos>", "<unk>")
TOKENS = [*SPECIAL, *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
WIDTH = 12


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder for temporary files, here and in processes that are started."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny ESM2 with random weights, as the Hub's are: for masked residues, rotary positions."""
    return write_checkpoint(tmp_path_factory.mktemp("esm2") / "tiny")


def write_checkpoint(folder: Path, **changes) -> Path:
    folder.mkdir()
    config = EsmConfig(
        vocab_size=len(TOKENS),
        mask_token_id=TOKENS.index("<mask>"),
        pad_token_id=TOKENS.index("<pad>"),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=24,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **changes,
    )
    torch.manual_seed(0)
    model = EsmForMaskedLM(config)
    for parameter in model.parameters():  # the default draws so small that all proteins are alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS))
    return folder


def sequences(n: int, seed: int = 0, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        "M" + "".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), rng.integers(1, longest)))
        for _ in range(n)
    ]


def reference(folder: Path, sequence: str) -> np.ndarray:
    """One sequence at a time, no padding: the plain reading of what is asked for."""
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"))
    total = np.zeros(model.config.hidden_size)
    for piece in pieces_of(sequence):
        given = tokenizer(piece, return_tensors="pt")
        assert given["input_ids"].shape == (1, len(piece) + 2)
        with torch.no_grad():
            total += model(**given).last_hidden_state[0, 1:-1].double().sum(0).numpy()
    return total / len(sequence)


def write_fasta(path: Path, proteins: dict[str, str]) -> Path:
    records = [
        f">sp|P{i:05d}|{gene}_HUMAN Some protein OS=Homo sapiens OX=9606 GN={gene} PE=1 SV=2\n"
        + "\n".join(text[k : k + 60] for k in range(0, len(text), 60))
        for i, (gene, text) in enumerate(proteins.items())
    ]
    path.write_text("\n".join(records) + "\n")
    return path


def vocabulary(folder: Path, genes) -> str:
    tokens = [*genes, "<pad>", "<cls>", "<eoc>"]
    path = folder / "vocab.json"
    path.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    return str(path)


# Embedding ----------------------------------------------------------------------------------------


def test_batched_embeddings_are_those_of_one_sequence_at_a_time(checkpoint, tmp_path, monkeypatch):
    proteins = [*sequences(23), "M", "MKUOBZX", sequences(1, 1, 2 * LONGEST + 500)[0]]
    proteins.append("".join(sequences(99, 2))[: 2 * LONGEST + 1])
    assert len(proteins[-1]) == 2 * LONGEST + 1
    monkeypatch.setitem(esm2.TOKENS_AT_ONCE, "cpu", 300)
    found = embed(load_esm2(checkpoint, "tiny"), proteins, tmp_path)
    expected = np.array([reference(checkpoint, protein) for protein in proteins])
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() > 1e-2  # the proteins are not all alike


def test_a_letter_without_a_token_counts_as_any_residue(checkpoint, tmp_path):
    found = embed(load_esm2(checkpoint, "tiny"), ["MKJJA", "MKXXA"], tmp_path)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@given(length=st.integers(1, 4 * LONGEST))
def test_a_long_sequence_is_cut_into_the_fewest_equal_pieces(length):
    text = "".join("ACDEFGHIKL"[i % 10] for i in range(length))
    pieces = pieces_of(text)
    assert "".join(pieces) == text
    lengths = list(map(len, pieces))
    assert max(lengths) <= LONGEST and max(lengths) - min(lengths) <= 1
    assert len(pieces) == -(-length // LONGEST)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20), tokens=st.integers(1, 120))
def test_batches_hold_every_residue_once_within_their_budget(lengths, tokens):
    proteins = [chr(65 + i) * n for i, n in enumerate(lengths)]
    batches = list(esm2.token_batches(proteins, tokens))
    assert sorted(p.residues for batch in batches for p in batch) == sorted(proteins)
    for batch in batches:
        longest = max(len(piece.residues) for piece in batch)
        assert len(batch) == 1 or len(batch) * (longest + 2) <= tokens


def test_weights_in_other_files_give_the_same_embeddings(checkpoint, tmp_path):
    proteins = sequences(3)
    expected = embed(load_esm2(checkpoint, "tiny"), proteins, tmp_path)
    model = EsmForMaskedLM.from_pretrained(checkpoint)
    for form in ("bin", "shards"):
        folder = tmp_path / form
        folder.mkdir()
        for name in ("config.json", "vocab.txt"):
            (folder / name).write_bytes((checkpoint / name).read_bytes())
        if form == "bin":
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
        else:
            model.save_pretrained(folder, max_shard_size="5KB")
            assert (folder / "model.safetensors.index.json").exists()
        (tmp_path / f"kept-{form}").mkdir()
        with esm2.fetched_checkpoint(str(folder)) as fetched:
            found = embed(load_esm2(fetched, form), proteins, tmp_path / f"kept-{form}")
        np.testing.assert_allclose(found, expected, atol=1e-6)


# The prior ----------------------------------------------------------------------------------------


def test_each_gene_gets_the_embedding_of_its_protein(checkpoint, tmp_path, kept, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    proteins = dict(zip(["TP53", "OLD", "other", "KLF1"], sequences(4), strict=True))
    proteins["TWIN"] = proteins["TP53"]
    fasta = write_fasta(tmp_path / "uniprotkb_human.fasta", proteins)
    (tmp_path / "names.tsv").write_text("symbol\talias\nNEW\tOLD\n")
    text = f"esm2:{checkpoint}?fasta={fasta}&aliases={tmp_path / 'names.tsv'}"
    genes = ["KLF1", "NEW", "NONE", "TP53", "TWIN"]
    prior(text, vocabulary(tmp_path, genes), tmp_path / "out")
    table = load_file(tmp_path / "out" / "prior.safetensors")["prior"].numpy()
    for row, gene in enumerate(["KLF1", "OLD", None, "TP53", "TP53"]):
        expected = reference(checkpoint, proteins[gene]) if gene else np.zeros(WIDTH)
        np.testing.assert_allclose(table[row], expected, atol=1e-5)
    assert not table[5:].any()
    facts = opening(tmp_path / "out", GENE_PRIOR).summary
    assert facts["width"] == WIDTH and facts["covered_genes"] == 4
    assert facts["proteins"] == 5 and facts["genes_by_alias"] == 1
    assert facts["table_genes_not_in_vocabulary"] == 1
    kinds = {source["kind"]: source["licence"] for source in facts["sources"]}
    assert kinds == {"esm2": UNKNOWN, "sequences": "CC-BY-4.0", "aliases": UNKNOWN}
    assert not list(kept.iterdir())  # nothing is left once it is written


def test_a_killed_run_goes_on_and_ends_the_same_to_the_bit(
    checkpoint, tmp_path, kept, monkeypatch, capsys
):
    proteins = dict(zip([f"G{i}" for i in range(120)], sequences(120, 3), strict=True))
    proteins["LONG"] = "".join(sequences(60, 4))[:1500]
    fasta = write_fasta(tmp_path / "p.fasta", proteins)
    given = (f"esm2:{checkpoint}?fasta={fasta}", vocabulary(tmp_path, proteins))
    started = [sys.executable, "-m", "tests.prior.esm2_process", *given, str(tmp_path / "killed")]
    process = subprocess.Popen(started, env=os.environ | {"OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 60
    while len(list(kept.glob("*/proteins-*.safetensors"))) < 10:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    shards = sorted(kept.glob("*/proteins-*.safetensors"))
    shards[0].write_bytes(b"damaged")

    monkeypatch.setitem(esm2.TOKENS_AT_ONCE, "cpu", 64)
    computed = []
    real = esm2.token_sums
    monkeypatch.setattr(esm2, "token_sums", lambda *given: computed.append(given) or real(*given))
    prior(*given, tmp_path / "again")
    first = len(computed)
    assert "resumed after" in capsys.readouterr().out
    assert not list(kept.iterdir())
    prior(*given, tmp_path / "whole")
    assert first < len(computed) - first  # what was kept was not computed again
    again, whole = (
        load_file(tmp_path / name / "prior.safetensors")["prior"] for name in ("again", "whole")
    )
    assert torch.equal(again, whole)


def test_what_is_embedded_is_kept_until_the_prior_is_written(
    checkpoint, tmp_path, kept, monkeypatch
):
    monkeypatch.setattr(esm2, "SECONDS_BETWEEN_SHARDS", 0.0)
    fasta = write_fasta(tmp_path / "p.fasta", {"A": "MKL", "B": "MAL"})
    text = f"concat(esm2:{checkpoint}?fasta={fasta}, graph:{tmp_path / 'no.csv'})"
    with pytest.raises(InputError, match=r"no\.csv: no such file"):
        prior(text, vocabulary(tmp_path, "AB"), tmp_path / "out")
    assert list(kept.glob("*/proteins-*.safetensors"))


def test_a_checkpoint_is_fetched_file_by_file(checkpoint, tmp_path, kept):
    fasta = write_fasta(tmp_path / "p.fasta", {"A": "MKL", "B": "MAL"})
    serve = partial(SimpleHTTPRequestHandler, directory=str(checkpoint.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{checkpoint.name}"
        prior(f"esm2:{url}?fasta={fasta}", vocabulary(tmp_path, "AB"), tmp_path / "out")
        server.shutdown()
    table = load_file(tmp_path / "out" / "prior.safetensors")["prior"].numpy()
    np.testing.assert_allclose(table[0], reference(checkpoint, "MKL"), atol=1e-5)
    assert not list(kept.iterdir())


def test_sequences_of_other_genes_are_told_before_any_weights_are_read(tmp_path, kept):
    fasta = write_fasta(tmp_path / "p.fasta", {"A": "MKL"})
    with pytest.raises(InputError, match=r"none of its 1 genes is in the vocabulary \('A'\)"):
        prior(f"esm2:nowhere?fasta={fasta}", vocabulary(tmp_path, "B"), tmp_path / "out")


def damaged(checkpoint: Path, folder: Path, name: str, content: bytes | None) -> Path:
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json: no such file"),
        ("config.json", b"{", "config.json is not that of an ESM2 model"),
        ("config.json", b'{"model_type": "bert"}', "model_type is 'bert'"),
        ("vocab.txt", None, "vocab.txt: no such file"),
        ("vocab.txt", b"\n".join(b"t%d" % i for i in range(99)), "99 tokens, config.json 33"),
        ("model.safetensors", None, "no weights; expected one of model.safetensors"),
        ("model.safetensors", b"no weights", "cannot be loaded as ESM2"),
    ],
)
def test_a_checkpoint_that_is_none_is_told_in_one_line(
    checkpoint, tmp_path, kept, name, content, message
):
    folder = damaged(checkpoint, tmp_path / "bad", name, content)
    fasta = write_fasta(tmp_path / "p.fasta", {"A": "MKL"})
    with pytest.raises(InputError, match=message) as error:
        prior(f"esm2:{folder}?fasta={fasta}", vocabulary(tmp_path, "A"), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_lack_a_layer_are_refused_not_drawn(checkpoint, tmp_path):
    folder = damaged(checkpoint, tmp_path / "bad", "x", b"")
    state = load_file(checkpoint / "model.safetensors")
    left = {name: t for name, t in state.items() if "layer.1.output" not in name}
    assert len(left) < len(state)
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tensors of ESM2 are missing.*layer\.1\.output"):
        load_esm2(folder, "bad")


def test_a_pickle_that_would_run_code_is_refused(checkpoint, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it-ran'}",)

    folder = damaged(checkpoint, tmp_path / "bad", "model.safetensors", None)
    torch.save({"esm.x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded as ESM2"):
        load_esm2(folder, "bad")
    assert not (tmp_path / "it-ran").exists()


# FASTA --------------------------------------------------------------------------------------------

FASTA = """\
>tr|A0A024|A0A024_HUMAN Longer, not reviewed OS=Homo sapiens OX=9606 GN=TP53 PE=1 SV=1
MAAAAAAAAAAA
>sp|P04637-2|P53_HUMAN Isoform 2 of p53 OS=Homo sapiens OX=9606 GN=TP53
MBBBBBBB
>sp|P04637|P53_HUMAN Cellular tumor antigen p53 OS=Homo sapiens OX=9606 GN=TP53 PE=1 SV=4
mee
PQ*

>sp|Q8N726|ARF_HUMAN Tumor suppressor ARF OS=Homo sapiens OX=9606 GN=CDKN2A PE=1 SV=2
MVR
>sp|P42771|CDN2A_HUMAN CDK inhibitor 2A OS=Homo sapiens OX=9606 GN=CDKN2A PE=1 SV=2
MEPAA
>sp|P02340|P53_MOUSE p53 OS=Mus musculus OX=10090 GN=Tp53 PE=1 SV=4
MTAMEESQ
>sp|P00001|X_HUMAN No gene OS=Homo sapiens OX=9606 PE=1 SV=4
MTA
>ENSP00000269305.4 pep chromosome:GRCh38 gene:ENSG00000141510.17 gene_symbol:KLF1 description:x
MKLF
>GATA1 plain
MGATA
"""


@pytest.mark.parametrize("zipped", [False, True])
def test_one_sequence_a_gene_by_the_documented_rule(tmp_path, zipped):
    path = tmp_path / "p.fasta"
    path.write_bytes(gzip.compress(FASTA.encode()) if zipped else FASTA.encode())
    found = read_fasta(path, "p.fasta")
    assert found.sequences == {
        "TP53": "MEEPQ",
        "CDKN2A": "MEPAA",
        "KLF1": "MKLF",
        "GATA1": "MGATA",
    }
    assert found.facts == {
        "proteins": 9,
        "genes_with_several_proteins": 2,
        "proteins_of_other_organisms": 1,
        "proteins_without_gene": 1,
    }
    assert not found.uniprot


@given(st.permutations(["".join(part) for part in zip(*[iter(FASTA.split(">")[1:])], strict=True)]))
def test_the_order_of_records_changes_no_sequence(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("fasta") / "p.fasta"
    path.write_text("".join(f">{record}" for record in records))
    assert read_fasta(path, "p").sequences["TP53"] == "MEEPQ"
    assert read_fasta(path, "p").sequences["CDKN2A"] == "MEPAA"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no protein of a human gene"),
        (b"MKL\n", "begins with 'MKL'; expected FASTA"),
        (b">A\n", "record 'A' has no residues"),
        (b">A\nMK1\n", "record 'A' has residues that are not letters"),
        (b">A\nM*K\n", "not letters"),
        (b">sp|P1|X_MOUSE x OX=10090 GN=A\nMK\n", "no protein of a human gene"),
        (gzip.compress(b">A\nMK\n" * 999, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_fasta_that_is_none_is_told_in_one_line(tmp_path, content, message):
    (tmp_path / "p.fasta").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_fasta(tmp_path / "p.fasta", "p.fasta")
    assert "\n" not in str(error.value)
