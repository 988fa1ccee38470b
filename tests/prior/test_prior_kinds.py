"""Graph, annotation, scgpt, random, shuffled and concat: no vector may end on the wrong gene."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.prior import area, read_pairs
from components.prior.prior import prior
from components.prior.spectral import embed_graph
from components.shared.artifacts.artifact import GENE_PRIOR, opening
from components.shared.artifacts.gene_prior import coverage, genes_with_vector
from components.shared.artifacts.licences import (
    GENERATED,
    NONE_DECLARED,
    SE_600M,
    UNKNOWN,
    XAIRA,
    is_non_commercial,
    licence_of,
    strictest,
)
from components.shared.parameters.aliases import Aliases, match, read_aliases
from components.shared.telling.errors import InputError

SPECIAL = ("<pad>", "<cls>", "<eoc>")
CLIQUES = [[f"{name}{i}" for i in range(6)] for name in "ABC"]


@dataclass
class Made:
    """A written artifact, read back."""

    folder: Path
    tokens: list[str]
    table: np.ndarray
    facts: dict

    def __getitem__(self, gene: str) -> np.ndarray:
        return self.table[self.tokens.index(gene)]


def read(folder: Path) -> Made:
    facts = opening(folder, GENE_PRIOR).summary
    assert facts == json.loads((folder / "prior.json").read_text())
    if not (folder / "prior.safetensors").exists():
        return Made(folder, [], np.zeros((0, 0)), facts)
    with safe_open(folder / "prior.safetensors", "np") as file:
        return Made(folder, json.loads(file.metadata()["genes"]), file.get_tensor("prior"), facts)


def made(folder: Path, text: str, tokens: list[str], seed: int = 0) -> Made:
    """Make the prior for a vocabulary of ``tokens`` and read it back."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    target = folder / f"prior{len(list(folder.iterdir()))}"
    prior(text, str(vocabulary), target, seed=seed)
    return read(target)


def tokens_of(genes) -> list[str]:
    return [*genes, *SPECIAL]


def clique_pairs() -> list[tuple[str, str]]:
    pairs = [(a, b) for genes in CLIQUES for i, a in enumerate(genes) for b in genes[i + 1 :]]
    return [*pairs, ("A0", "B0"), ("B1", "C1")]


def write_pairs(path: Path, pairs, names=("entity1", "entity2")) -> str:
    frame = pd.DataFrame(pairs, columns=list(names), dtype=str)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return str(path)


def cosine(a, b) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# Graph and annotation -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv", "p.tsv.gz", "p.parquet"])
def test_genes_with_the_same_partners_lie_together(tmp_path, name):
    path = write_pairs(tmp_path / name, clique_pairs())
    genes = [gene for clique in CLIQUES for gene in clique]
    found = made(tmp_path, f"graph:{path}?width=3", tokens_of(["no-pair", *genes]))
    within = [cosine(found[c[2]], found[c[3]]) for c in CLIQUES]
    between = [cosine(found["A2"], found["B3"]), cosine(found["B2"], found["C3"])]
    assert min(within) > 0.95 > 0.5 > max(between)
    assert not found["no-pair"].any() and not found["<pad>"].any()
    np.testing.assert_allclose(np.square(found["A0"]).mean(), 1, rtol=1e-5)
    assert found.facts["covered_genes"] == 18
    assert found.facts["pairs"] == 47
    assert found.facts["kind"] == "graph"


def test_the_graph_is_the_svd_of_its_normalised_adjacency(tmp_path):
    pairs = [("x", "y"), ("y", "z"), ("z", "w"), ("y", "x"), ("w", "v"), ("x", "w"), ("v", "v")]
    names, vectors, _ = embed_graph([a for a, _ in pairs], [b for _, b in pairs], 3, "pairs")
    place = {gene: i for i, gene in enumerate(names)}
    dense = np.eye(5)
    for a, b in pairs:
        dense[place[a], place[b]] = dense[place[b], place[a]] = 1
    degree = dense.sum(0) + 1
    left, values, _ = np.linalg.svd(dense / np.sqrt(np.outer(degree, degree)))
    expected = left[:, :3] * values[:3]
    expected *= np.sqrt(3) / np.linalg.norm(expected, axis=1, keepdims=True)
    # Up to the sign of each dimension, which the seed and sklearn's rule fix.
    np.testing.assert_allclose(np.abs(vectors), np.abs(expected), atol=1e-5)


def test_an_annotation_lets_rare_terms_say_more_than_common_ones(tmp_path):
    rows = [(gene, "common") for clique in CLIQUES for gene in clique]
    rows += [(gene, f"term-{clique[0]}") for clique in CLIQUES for gene in clique]
    rows += [("A0", "common")]  # twice, as by two lines of evidence
    path = write_pairs(tmp_path / "a.csv", rows, ("symbol", "go_id"))
    genes = [gene for clique in CLIQUES for gene in clique]
    found = made(tmp_path, f"annotation:{path}?width=3", tokens_of(genes))
    assert cosine(found["A1"], found["A2"]) > 0.999
    assert cosine(found["A0"], found["A1"]) > 0.999
    assert cosine(found["A1"], found["B1"]) < 0.5
    assert found.facts["terms"] == 4 and found.facts["annotations"] == 36


def test_evidence_chooses_rows_and_no_data_is_none(tmp_path):
    frame = pd.DataFrame(
        {
            "symbol": ["A", "B", "C", "D", "E", "N"],
            "go_id": ["t1", "t1", "t2", "t2", "t3", "root"],
            "evidence": ["IDA", "IDA", "IDA", "IEA", "IEA", "ND"],
        }
    )
    frame.to_parquet(tmp_path / "go.parquet")
    uri = f"annotation:{tmp_path / 'go.parquet'}?width=2"
    tokens = tokens_of("ABCDEN")
    every = made(tmp_path, uri, tokens)
    assert genes_with_vector(every.table, tokens) <= set("ABCDE")
    assert every.facts["table_genes"] == 5
    some = made(tmp_path, f"{uri.replace('width=2', 'width=1')}&evidence=IDA", tokens)
    assert some.facts["table_genes"] == 3
    with pytest.raises(InputError, match="no row has evidence EXP; the codes there are IDA, IEA"):
        made(tmp_path, f"{uri}&evidence=EXP", tokens)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), annotation=st.booleans())
def test_the_order_of_a_table_changes_no_genes_vector(data, annotation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    pairs = clique_pairs()
    names = ("symbol", "go_id") if annotation else ("entity1", "entity2")
    mixed = data.draw(st.permutations(pairs))
    if not annotation:
        mixed = [pair[:: data.draw(st.sampled_from((1, -1)))] for pair in mixed]
    genes = [gene for clique in CLIQUES for gene in clique]
    tokens = data.draw(st.permutations(tokens_of(genes)))
    kind = "annotation" if annotation else "graph"
    one = write_pairs(folder / "one.csv", pairs, names)
    two = write_pairs(folder / "two.csv", mixed, names)
    first = made(folder, f"{kind}:{one}?width=4", tokens_of(genes))
    second = made(folder, f"{kind}:{two}?width=4", tokens)
    for gene in genes:
        np.testing.assert_array_equal(first[gene], second[gene])


def test_other_columns_can_be_named(tmp_path):
    path = write_pairs(tmp_path / "p.csv", clique_pairs(), ("left gene", "right&gene"))
    genes = [gene for clique in CLIQUES for gene in clique]
    found = made(tmp_path, f"graph:{path}?width=3&columns=left gene+right%26gene", tokens_of(genes))
    assert found.facts["covered_genes"] == 18
    with pytest.raises(InputError, match="'entity1' is missing; the file has 'left gene', 'right"):
        made(tmp_path, f"graph:{path}", tokens_of(genes))
    with pytest.raises(InputError, match="named twice"):
        made(tmp_path, f"graph:{path}?columns=left gene+left gene", tokens_of(genes))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"", "not readable as .csv"),
        ("p.csv", b"entity1,entity2\n", "has no rows"),
        ("p.csv", b"entity1,entity2\nA\n", "not readable as .csv"),
        ("p.csv", b"entity1,entity2\nA,\n,B\n", "no row with both columns filled"),
        ("p.csv", b"\xff\xfe\x00", "not readable as .csv|is missing"),
        ("p.csv", b"entity1,entity1,entity2\nA,B,C\n", "'entity1' comes more than once"),
        ("p.csv", b"entity1,entity2\nA,B\n", "2 genes by 2 columns are too few for 128"),
        ("p.csv.gz", b"entity1,entity2\nA,B\n", "not readable as .gz"),
        ("p.csv.gz", gzip.compress(b"entity1,entity2\nA,B\n", mtime=0)[:-9], "not readable as .gz"),
        ("p.parquet", b"PAR1 no parquet", "not readable as .parquet"),
        ("p.xlsx", b"entity1,entity2\nA,B\n", "format '.xlsx' is unknown; expected .csv, .tsv"),
    ],
)
def test_a_list_of_pairs_that_is_none_is_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        made(tmp_path, f"graph:{tmp_path / name}", tokens_of("AB"))
    assert "\n" not in str(error.value)


def test_a_column_of_numbers_is_no_column_of_genes(tmp_path):
    pq.write_table(pa.table({"entity1": [1, 2], "entity2": ["A", "B"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="column 'entity1' is int64, expected text"):
        made(tmp_path, f"graph:{tmp_path / 'p.parquet'}", tokens_of("AB"))


# random, shuffled, concat, scgpt ------------------------------------------------------------------

GENES = [f"G{i}" for i in range(40)]


@pytest.fixture
def table(tmp_path):
    """A table with a vector of its own for 20 of the 40 genes, two of them zero."""
    rows = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    rows[[4, 9]] = 0
    np.savez(tmp_path / "t.npz", genes=np.array(GENES[10:30]), embeddings=rows)
    return f"table:{tmp_path / 't.npz'}"


def test_random_vectors_follow_the_seed_and_each_gene_has_one(tmp_path):
    one, again, other = (made(tmp_path, "random:16", tokens_of(GENES), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.table, again.table)
    assert not np.isclose(one.table[:40], other.table[:40]).any()
    assert not one.table[40:].any()
    assert len(np.unique(one.table[:40])) == 40 * 16
    assert one.facts["licence"] == "CC0-1.0"


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_shuffled_deals_the_same_vectors_to_other_genes(tmp_path, table, seed):
    plain = made(tmp_path / "a", table, tokens_of(GENES), seed)
    dealt = made(tmp_path / "b", f"shuffled:{table}", tokens_of(GENES), seed)
    assert sorted(map(tuple, plain.table)) == sorted(map(tuple, dealt.table))
    had, has = plain.table.any(axis=1), dealt.table.any(axis=1)
    np.testing.assert_array_equal(had, has)
    assert had.sum() == 18
    assert not (plain.table[had] == dealt.table[had]).all(axis=1).any()
    assert dealt.facts["covered_genes"] == plain.facts["covered_genes"] == 18
    assert dealt.facts["kind"] == "shuffled"
    assert dealt.facts["members"][0]["prior"] == table
    again = made(tmp_path / "c", f"shuffled:{table}", tokens_of(GENES), seed)
    np.testing.assert_array_equal(dealt.table, again.table)


def test_a_shuffled_random_prior_deals_the_vectors_that_random_draws(tmp_path):
    plain = made(tmp_path, "random:8", tokens_of(GENES))
    dealt = made(tmp_path, "shuffled:random:8", tokens_of(GENES))
    assert sorted(map(tuple, plain.table)) == sorted(map(tuple, dealt.table))


def test_a_shuffled_concat_keeps_the_parts_of_a_vector_together(tmp_path, table):
    text = f"concat({table}, random:2)"
    plain = made(tmp_path, text, tokens_of(GENES))
    dealt = made(tmp_path, f"shuffled:{text}", tokens_of(GENES))
    assert sorted(map(tuple, plain.table)) == sorted(map(tuple, dealt.table))


PARTS = st.sampled_from(["TABLE", "random:2", "random:5", "none", "shuffled:TABLE", "effects"])


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(PARTS, min_size=1, max_size=4).filter(lambda p: p.count("effects") < 2))
def test_a_concat_holds_its_members_side_by_side(tmp_path, table, parts):
    parts = [part.replace("TABLE", table) for part in parts]
    whole = made(tmp_path / "whole", f"concat({', '.join(parts)})", tokens_of(GENES))
    kept = [part for part in parts if part not in ("none", "effects")]
    alone = [made(tmp_path / "part", part, tokens_of(GENES)) for part in kept]
    assert whole.table.shape[1] == sum(part.table.shape[1] for part in alone)
    assert ("effects" in whole.facts) == ("effects" in parts)
    if not kept:
        assert whole.facts["kind"] == "none"
        return
    start, covered = 0, np.zeros(len(whole.tokens), bool)
    for text, part in zip(kept, alone, strict=True):
        columns = whole.table[:, start : start + part.table.shape[1]]
        start += part.table.shape[1]
        has = part.table.any(axis=1)
        covered |= has
        np.testing.assert_array_equal(columns.any(axis=1), has)
        if text == table:  # what is drawn differs by place
            scale = (columns[has] / part.table[has]).mean()
            np.testing.assert_allclose(columns, part.table * scale, rtol=1e-5)
        length = np.square(columns[has]).sum(axis=1).mean()
        if len(kept) > 1:
            np.testing.assert_allclose(length, whole.table.shape[1] / len(kept), rtol=1e-4)
    np.testing.assert_array_equal(whole.table.any(axis=1), covered)
    assert whole.facts["covered_genes"] == covered.sum()


def test_two_random_members_draw_different_numbers(tmp_path):
    found = made(tmp_path, "concat(random:4, random:4)", tokens_of(GENES)).table[:40]
    assert abs(np.corrcoef(found[:, :4].ravel(), found[:, 4:].ravel())[0, 1]) < 0.3


def test_effects_alone_leave_no_table(tmp_path):
    found = made(tmp_path, "effects", tokens_of(GENES))
    assert found.facts["kind"] == "none" and found.facts["effects"] == {"uri": ""}
    assert sorted(p.name for p in (tmp_path / "prior1").iterdir()) == [
        "prior.json",
        "provenance.json",
    ]


def test_scgpt_takes_the_checkpoints_own_embeddings(tmp_path):
    tokens = tokens_of(GENES)
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    args = {"embsize": 8, "nheads": 2, "d_hid": 8, "nlayers": 1, "n_layers_cls": 3, "dropout": 0}
    (tmp_path / "args.json").write_text(json.dumps(args))
    weight = torch.randn(len(tokens), 8)
    torch.save({"encoder.embedding.weight": weight}, tmp_path / "best_model.pt")
    prior("scgpt", str(tmp_path), tmp_path / "out")
    table = load_file(tmp_path / "out" / "prior.safetensors")["prior"]
    assert torch.equal(table[:40], weight[:40])
    assert not table[40:].any()
    torch.save({"encoder.embedding.weight": weight[:5]}, tmp_path / "best_model.pt")
    with pytest.raises(InputError, match=r"of shape \[5, 8\]; expected \[43, width\]"):
        prior("scgpt", str(tmp_path), tmp_path / "again")


def test_a_model_that_starts_fresh_has_no_embeddings_to_give(tmp_path):
    with pytest.raises(InputError, match="random://tiny, which has learnt no gene embeddings"):
        prior("scgpt", "random://tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Aliases ------------------------------------------------------------------------------------------


def test_old_and_new_names_meet_whichever_side_has_which():
    aliases = Aliases(
        frozenset({"AARS1", "GBA1", "X", "Y", "TP53"}),
        {
            "AARS": frozenset({"AARS1"}),
            "GBA": frozenset({"GBA1"}),
            "ENSG01": frozenset({"TP53"}),
            "both": frozenset({"X", "Y"}),
        },
    )
    found = match(
        ["AARS", "GBA1", "ENSG01.7", "both", "new"], ["AARS1", "GBA", "TP53", "X"], aliases
    )
    assert found.gene_of == {"AARS": "AARS1", "GBA1": "GBA", "ENSG01.7": "TP53"}
    assert found.by_alias == found.gene_of
    assert found.ambiguous == ["both"]


def test_no_alias_takes_a_gene_that_the_table_has_under_its_own_name():
    aliases = Aliases(frozenset({"AARS1"}), {"AARS": frozenset({"AARS1"})})
    assert match(["AARS", "AARS1"], ["AARS1"], aliases).gene_of == {"AARS1": "AARS1"}
    # Nor does it where both names are tokens.
    assert match(["old", "AARS1"], ["AARS", "AARS1"], aliases).gene_of == {"AARS1": "AARS1"}
    found = match(
        ["AARS1", "alanine"],
        ["AARS1", "AARS"],
        Aliases(aliases.symbols, {**aliases.meanings, "alanine": frozenset({"AARS1"})}),
    )
    assert found.gene_of == {"AARS1": "AARS1"}


def test_names_that_share_a_gene_are_left_out_and_reported(tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("symbol\talias\nNEW\tOLD\nNEW\tOLDER\n")
    np.savez(tmp_path / "t.npz", genes=["OLD", "OLDER", "Z"], embeddings=np.eye(3))
    found = made(
        tmp_path,
        f"table:{tmp_path / 't.npz'}?aliases={tmp_path / 'a.tsv'}",
        tokens_of(["NEW", "Z"]),
    )
    assert not found["NEW"].any() and found["Z"].any()
    assert found.facts["ambiguous_names"] == ["OLD", "OLDER"]
    assert found.facts["table_genes_not_in_vocabulary"] == 2
    assert "2 names may mean several genes" in capsys.readouterr().out
    assert [source["kind"] for source in found.facts["sources"]] == ["table", "aliases"]


def test_an_alias_table_is_read_as_hgnc_writes_it(tmp_path):
    (tmp_path / "hgnc_complete_set.txt").write_text(
        "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id\n"
        'HGNC:20\tAARS1\tApproved\t"CMT2N|AlaRS"\tAARS\tENSG00000090861\n'
        "HGNC:4177\tGBA1\tApproved\tGBA1B|AARS1\tGBA|GLUC\tENSG00000177628\n"
    )
    found = read_aliases(tmp_path / "hgnc_complete_set.txt", "hgnc")
    assert found.meanings["AlaRS"] == {"AARS1"} and found.meanings["GLUC"] == {"GBA1"}
    assert found.meanings["ENSG00000090861"] == {"AARS1"}
    assert "AARS1" not in found.meanings  # a symbol stands for itself
    (tmp_path / "none.tsv").write_text("symbol\tname\nA\tx\n")
    with pytest.raises(InputError, match="no column of other names; expected alias, alias_symbol"):
        read_aliases(tmp_path / "none.tsv", "none.tsv")


NAMES = st.text("abcd", min_size=1, max_size=2)


@settings(max_examples=150, deadline=None)
@given(
    names=st.sets(NAMES, min_size=1, max_size=8),
    genes=st.sets(NAMES, min_size=1, max_size=8),
    pairs=st.lists(st.tuples(NAMES, NAMES), max_size=12),
    order=st.randoms(),
)
def test_no_random_aliases_put_a_vector_on_a_wrong_gene(names, genes, pairs, order):
    symbols = frozenset(symbol for _, symbol in pairs)
    meanings: dict[str, set[str]] = {}
    for alias, symbol in pairs:
        if alias not in symbols:
            meanings.setdefault(alias, set()).add(symbol)
    aliases = Aliases(symbols, {alias: frozenset(s) for alias, s in meanings.items()})
    found = match(names, genes, aliases)
    for name, gene in found.gene_of.items():
        stand_for = {name} if name in symbols else meanings.get(name, {name})
        gene_stands_for = {gene} if gene in symbols else meanings.get(gene, {gene})
        assert name == gene or (len(stand_for) == 1 and stand_for == gene_stands_for)
        assert name == gene or (name not in genes and gene not in names)
    assert len(set(found.gene_of.values())) == len(found.gene_of)
    assert all(found.gene_of[name] == name for name in names & genes)
    assert not set(found.ambiguous) & set(found.gene_of)
    mixed = [list(names), list(genes)]
    for part in mixed:
        order.shuffle(part)
    assert match(mixed[0], mixed[1], aliases).gene_of == found.gene_of


# Coverage and licences ----------------------------------------------------------------------------


def test_coverage_counts_each_gene_once():
    table = np.array([[0, 0], [1, 0], [0, 2]], np.float32)
    has = genes_with_vector(table, ["A", "B", "C"])
    assert has == {"B", "C"}
    assert coverage(has, ["A", "B", "B", "X"]) == {"genes": 3, "covered": 1, "fraction": 0.3333}
    assert coverage(has, []) == {"genes": 0, "covered": 0, "fraction": 0.0}


@pytest.mark.parametrize(
    ("licences", "binds"),
    [
        ([], "none needed"),
        (["MIT"], "MIT"),
        (["MIT", "CC-BY-4.0", "CC0-1.0"], "CC-BY-4.0"),
        (["CC-BY-4.0", UNKNOWN], UNKNOWN),
        ([UNKNOWN, SE_600M, "MIT"], f"{SE_600M}; {UNKNOWN}"),
        (["Apache-2.0", "bsd-3-clause", "MIT"], "Apache-2.0"),
        ([licence_of("random:64", ""), "MIT"], "MIT"),
    ],
)
def test_the_strictest_licence_binds(licences, binds):
    assert strictest(licences) == binds


@pytest.mark.parametrize(
    ("source", "said", "licence"),
    [
        ("../shared/data/priors/gene2go.parquet", "", "CC-BY-4.0"),
        ("gs://b/reactome_pairs.csv.gz", "", "CC0-1.0"),
        ("hf://models/facebook/esm2_t33_650M_UR50D@main", "", "MIT"),
        ("models/scgpt_human", "", "MIT"),
        ("x/stringdb_pairs.csv.gz", "CC-BY-SA-4.0", "CC-BY-SA-4.0"),
        ("x/protein_embeddings.pt", "MIT", SE_600M),
        ("mine.csv", "", UNKNOWN),
        ("/home/me/scgpt_human_finetune/data/msigdb.parquet", "", UNKNOWN),
        ("gs://reactome-team/vendor/embeddings.pt", "", UNKNOWN),
        ("hf://datasets/me/humap-benchmark/private.npz", "", UNKNOWN),
        ("/x/SE-600M/emb.safetensors", "MIT", SE_600M),
        ("gs://b/scGPT_human/", "", "MIT"),
        ("hf://models/Xaira-Therapeutics/X-Cell/genes.safetensors", "", XAIRA),
        ("gs://b/X-Atlas-Orion/HCT116.h5ad", "MIT", XAIRA),
        ("/home/me/x-cell/mine.csv", "", UNKNOWN),
        ("copies/replogle_concat.h5ad", "", NONE_DECLARED),
        ("sim://screen?cells=20", "", GENERATED),
    ],
)
def test_a_licence_is_known_by_the_name_of_a_file(source, said, licence):
    assert licence_of(source, said) == licence


@pytest.mark.parametrize(
    ("licence", "is_one"),
    [
        (SE_600M, True),
        (XAIRA, True),
        (NONE_DECLARED, False),
        ("CC-BY-NC-4.0", True),
        ("Non Commercial use", True),
        ("CC-BY-4.0", False),
        ("CC BY NC SA 4.0", True),
        ("Public domain, NCBI Gene", False),
        ("MIT, see NCATS", False),
        ("CC0 - ncRNA atlas", False),
    ],
)
def test_terms_without_commerce_are_told(licence, is_one):
    assert is_non_commercial(licence) == is_one


def test_a_non_commercial_member_warns_and_is_kept_beside_the_others(tmp_path, capsys):
    torch.save({"A": torch.ones(2), "B": torch.zeros(2) - 1}, tmp_path / "protein_embeddings.pt")
    write_pairs(tmp_path / "reactome_pairs.csv", clique_pairs())
    text = f"concat({tmp_path}/protein_embeddings.pt, graph:{tmp_path}/reactome_pairs.csv?width=2)"
    found = made(tmp_path, text, tokens_of(["A", "B", "A0"]))
    assert found.facts["licence"] == SE_600M
    assert [s["licence"] for s in found.facts["sources"]] == [SE_600M, "CC0-1.0"]
    assert found.facts["source"] == "protein_embeddings.pt + reactome_pairs.csv"
    assert "WARNING" in (said := capsys.readouterr().err)
    assert "protein_embeddings.pt is not for commercial use" in said


# Real tables --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """A real table's prior on scGPT's vocabulary, by its text; @ is the folder of the tables."""

    @cache
    def make(text: str) -> Made:
        target = tmp_path_factory.mktemp("real") / "prior"
        asked = text.replace("@", str(shared_data / "priors"))
        prior(asked, str(shared_data / "scgpt_human"), target)
        return read(target)

    return make


@pytest.mark.parametrize(
    ("text", "covered", "licence"),
    [
        ("graph:@/stringdb_pairs.csv.gz?width=64", 10_328, "CC-BY-4.0"),
        ("graph:@/humap_pairs.csv.gz?width=64", 7_357, "CC-BY-4.0"),
        ("graph:@/reactome_pairs.csv.gz?width=64", 4_500, "CC0-1.0"),
        ("annotation:@/gene2go.parquet?width=64", 20_321, "CC-BY-4.0"),
    ],
)
def test_real_tables_cover_what_they_share_with_the_vocabulary(real, text, covered, licence):
    found = real(text)
    assert found.facts["covered_genes"] == covered
    assert found.facts["width"] == 64
    assert found.facts["licence"] == licence
    assert np.isfinite(found.table).all()


def test_one_real_source_knows_the_partners_that_another_lists(real, shared_data):
    pairs = read_pairs(shared_data / "priors" / "reactome_pairs.csv.gz")
    string, go = "graph:@/stringdb_pairs.csv.gz?width=64", "annotation:@/gene2go.parquet?width=64"
    assert area(real(string).folder, pairs) > 0.8
    assert area(real(go).folder, pairs) > 0.75
    assert abs(area(real(f"shuffled:{string}").folder, pairs) - 0.5) < 0.05
    assert abs(area(real(f"shuffled:{go}").folder, pairs) - 0.5) < 0.05


def test_ensembl_ids_find_their_genes_by_the_annotation_table(shared_data, tmp_path):
    go = pd.read_parquet(shared_data / "priors" / "gene2go.parquet")
    some = go[go.symbol.isin(["TP53", "GATA1", "KLF1"])].drop_duplicates("symbol")
    ids = [f"{ensembl}.3" for ensembl in some.ensembl_id]
    np.savez(tmp_path / "t.npz", genes=ids, embeddings=np.eye(3))
    uri = f"table:{tmp_path / 't.npz'}?aliases={shared_data / 'priors' / 'gene2go.parquet'}"
    found = made(tmp_path, uri, tokens_of(["KLF1", "GATA1", "TP53"]))
    assert found.facts["genes_by_alias"] == 3
    for symbol, row in zip(some.symbol, np.eye(3), strict=True):
        np.testing.assert_array_equal(found[symbol], row)


def test_blanks_around_names_are_no_part_of_them(tmp_path):
    (tmp_path / "a.csv").write_text("symbol,alias\nNEW , OLD | OLDER\n")
    found = read_aliases(tmp_path / "a.csv", "a")
    assert found.meanings == {"OLD": {"NEW"}, "OLDER": {"NEW"}}
    genes = [gene for clique in CLIQUES for gene in clique]
    plain = made(
        tmp_path / "1",
        f"graph:{write_pairs(tmp_path / 'a1.csv', clique_pairs())}?width=3",
        tokens_of(genes),
    )
    padded = write_pairs(tmp_path / "b.CSV", [(f"{a} ", f" {b}") for a, b in clique_pairs()])
    again = made(tmp_path / "2", f"graph:{padded}?width=3", tokens_of(genes))
    assert all(np.array_equal(plain[gene], again[gene]) for gene in genes)


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.csv.gz"])
def test_a_quotation_mark_that_takes_several_lines_is_told(tmp_path, name):
    pairs = [(a, b, "") for a, b in clique_pairs()]
    pairs[5] = (*pairs[5][:2], '"open')
    path = write_pairs(tmp_path / name, pairs, ("entity1", "entity2", "note"))
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "rt") as file:
        text = file.read().replace('"""open"', '"open')
    with opened(path, "wt") as file:
        file.write(text)
    with pytest.raises(InputError, match=r"has 47 lines but 6 rows; a quotation mark"):
        made(tmp_path, f"graph:{path}?width=3", tokens_of(["A0"]))


def test_quoted_fields_are_read_as_what_they_hold(tmp_path):
    path = tmp_path / "p.tsv"
    lines = [f'"{a}"\t"{b}"' for a, b in clique_pairs()]
    path.write_text("\n".join(['"entity1"\t"entity2"', *lines]))
    assert made(tmp_path, f"graph:{path}?width=3", tokens_of(["A0"])).facts["pairs"] == 47


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_an_optional_column_that_comes_twice_is_told(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    if ending == ".csv":
        path.write_text("symbol,alias,alias\nNEW,OLD,OLDER\n")
    else:
        columns = [pa.array([name]) for name in ("NEW", "OLD", "OLDER")]
        pq.write_table(pa.table(columns, names=["symbol", "alias", "alias"]), path)
    with pytest.raises(InputError, match="'alias' comes more than once; the file has"):
        read_aliases(path, "a")


def test_a_column_of_terms_may_be_that_of_evidence(tmp_path):
    lines = [f"G{i},GO:{j},E{j}" for i in range(9) for j in range(3) if i % 3 != j]
    (tmp_path / "a.csv").write_text("\n".join(["symbol,go_id,evidence", *lines]))
    text = f"annotation:{tmp_path / 'a.csv'}?columns=symbol+evidence&width=2"
    assert made(tmp_path, text, tokens_of(["G1"])).facts["covered_genes"] == 1
