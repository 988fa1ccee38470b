"""Labels as people have them: what they are read as, and what is refused before anything runs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from components.finetune.loading import check_symbols, check_told
from components.ingest.ingest import ingest
from components.shared.artifacts.perturbation import CONTROL, genes_of
from components.shared.artifacts.perturbation_names import (
    canonical_name,
    is_bare,
    line_key,
    line_named,
    plain,
    text_of,
)
from components.shared.model.tokens import GeneTokens
from components.shared.reading.controls import looks_like_control
from components.shared.reading.labels import with_one_name_each
from components.shared.reading.names import cut, means_nothing
from components.shared.telling.addresses import is_hidden
from components.shared.telling.errors import InputError, shortlist
from components.split.coded_labels import Labels
from components.split.split import check_one_name_each, split

GENES = ["AARS1", "CEBPA", "CEBPB", "HLA-A", "KLF1", "MAP2K6", "MYC", "RPL3"]


def screen(labels: list[Any], lines: list[Any] | str = "k562", genes: list[str] = GENES) -> Any:
    counts = np.random.default_rng(0).poisson(2, (len(labels), len(genes))).astype(np.float32)
    counts[:, 0] += 1
    lines = [lines] * len(labels) if isinstance(lines, str) else lines
    names = [f"cell{i}" for i in range(len(labels))]
    obs = pd.DataFrame({"gene": labels, "cell_line": lines}, index=names)
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))


def taken(folder: Path, adata: Any, **keywords: Any) -> tuple[Counter, dict[str, Any], Any]:
    """Return cells by perturbation, the summary and uns of what ingest writes."""
    adata.write_h5ad(folder / "in.h5ad")
    ingest(str(folder / "in.h5ad"), folder / "cells", **keywords)
    made = anndata.read_h5ad(folder / "cells" / "cells.h5ad")
    summary = json.loads((folder / "cells" / "provenance.json").read_text())["summary"]
    return Counter(made.obs["perturbation"]), summary, made


def refused(folder: Path, adata: Any, **keywords: Any) -> str:
    adata.write_h5ad(folder / "in.h5ad")
    with pytest.raises(InputError) as error:
        ingest(str(folder / "in.h5ad"), folder / "cells", **keywords)
    assert not (folder / "cells").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- controls ----

GUIDES = ["NT-1", "NT-2", "NT-3", "KLF1", "MYC"] * 4


@pytest.mark.parametrize("control", ["NT-*", "NT-1, NT-2,NT-3", ["NT-1", "NT-2", "NT-3"], "NT-?"])
def test_several_control_labels_are_one_control(tmp_path, control):
    found, summary, _ = taken(tmp_path, screen(GUIDES), control=control)
    assert found == {CONTROL: 12, "KLF1": 4, "MYC": 4}
    assert summary["control_labels"] == ["NT-1", "NT-2", "NT-3"]


def test_labels_that_look_like_controls_are_not_taken_for_genes(tmp_path):
    said = refused(tmp_path, screen(GUIDES), control="NT-1")
    assert "'NT-2', 'NT-3'" in said and "('NT-*')" in said
    assert "control_label 'NT-*'" in refused(tmp_path, screen(GUIDES), control="NT")
    found, _, _ = taken(tmp_path, screen(GUIDES), control="NT-1", left_out=["NT-*"])
    assert found == {CONTROL: 4, "KLF1": 4, "MYC": 4}


def test_what_is_to_be_left_out_must_be_there(tmp_path):
    said = refused(tmp_path, screen(GUIDES), control="NT-*", left_out=["KLF2"])
    assert "left_out: no cell is labelled 'KLF2', nearest: 'KLF1'" in said


def test_a_pattern_takes_no_gene_for_a_control(tmp_path):
    said = refused(tmp_path, screen([CONTROL, "CEBPA", "CEBPB"] * 4), control="CEBP*")
    assert "takes measured genes for controls" in said


CONTROLS = "NT-1,NTC,non-targeting_00013,Non.Targeting,neg_ctrl_7,control2,scramble,DMSO,ctrl"
CONTROLS += ",non targeting guide 4,safe-harbor-3,negative control"
CONTROLS += ",NegCtrl0_2,GFP,sgNTC_2,non-targeting_human_7"
NO_CONTROLS = "WT1,NT5E,NTRK1,CTRB1,CTRC,KLF1,NEGR1,SCRIB,MOCS1,GFPT1,NTNG1,CONTROLX"


@pytest.mark.parametrize("label", CONTROLS.split(","))
def test_what_looks_like_a_control(label):
    assert looks_like_control(label)


@pytest.mark.parametrize("label", NO_CONTROLS.split(","))
def test_genes_that_do_not(label):
    assert not looks_like_control(label)


@pytest.mark.parametrize(
    ("labels", "given", "says"),
    [
        (["ctrl", "KLF1"], {}, "nearest: 'ctrl'; set control_label to it"),
        (["KLF1", "MYC"], {}, "every label is a measured gene; set perturbation_column"),
        ([None, "KLF1"], {}, "set missing_is_control in ingest_options"),
        (["ctrl", "KLF1"], {"perturbation_column": "=KLF1"}, "write '=non-targeting' if all are"),
        (["ctrl", "KLF1"], {"perturbation_column": "=x", "control": ["a", "b"]}, "write '=a'"),
    ],
)
def test_what_is_proposed_where_there_is_no_control_can_be_set(tmp_path, labels, given, says):
    said = refused(tmp_path, screen(labels * 4), **given)
    assert says in said
    assert said.count("control_label") == ("set control_label" in says)


@pytest.mark.parametrize("column", ["=a", "=b", "=non-targeting"])
def test_all_cells_may_be_one_of_several_controls(tmp_path, column):
    given = {"perturbation_column": column, "control": "a, b"}
    assert taken(tmp_path, screen(["x"] * 8), **given)[0] == {CONTROL: 8}


def test_cells_without_a_label_are_controls_where_that_is_said(tmp_path):
    labels = [None, "nan", "KLF1", "MYC", "multiple"] * 4
    said = refused(tmp_path, screen(labels))
    assert "8 cells have no label" in said and "missing_is_control" in said
    assert "nearest" not in said
    assert "missing_is_control" in refused(tmp_path, screen([None, "KLF1"] * 4), control="nan")
    found, summary, _ = taken(tmp_path, screen(labels), missing_is_control=True)
    assert found == {CONTROL: 8, "KLF1": 4, "MYC": 4}
    assert summary["cells_without_label_by_text"] == {"multiple": 4}


def test_a_control_that_has_blanks_or_is_bytes_is_found(tmp_path):
    found, _, _ = taken(tmp_path, screen([" ctrl ", "KLF1+ctrl "] * 4), control="ctrl")
    assert found == {CONTROL: 4, "KLF1": 4}


# ---- texts that mean nothing ----


@pytest.mark.parametrize(
    "text", ["nan", "None", "", "NA", "multiple", "unassigned", "*", "no guide", "None+None"]
)
def test_texts_that_name_no_perturbation_are_left_out_and_counted(tmp_path, capsys, text):
    found, summary, _ = taken(tmp_path, screen([CONTROL, "KLF1", text] * 4))
    assert found == {CONTROL: 4, "KLF1": 4}
    assert summary["cells_without_label"] == 4
    assert summary["cells_without_label_by_text"] == {text: 4}
    assert f"4 '{text}'" in capsys.readouterr().err


def test_a_gene_whose_symbol_means_something_else_is_a_gene(tmp_path):
    genes = [*GENES, "NAN", "CTRL"]
    found, _, _ = taken(tmp_path, screen([CONTROL, "NAN", "CTRL"] * 4, genes=genes))
    assert found == {CONTROL: 4, "NAN": 4, "CTRL": 4}
    assert means_nothing("NAN") and not means_nothing("KLF1")


# ---- doubles and fillers ----

SAME = ["A+B", "B+A", "B + A", " A+B", "A+B+A", "b+A"]


@pytest.mark.parametrize("spelling", SAME)
def test_a_double_has_one_name(tmp_path, spelling):
    full = {"A": "CEBPA", "B": "CEBPB", "b": "cebpb"}
    label = "".join(full.get(letter, letter) for letter in spelling)
    found, summary, made = taken(tmp_path, screen([CONTROL, "CEBPA+CEBPB", label] * 4))
    assert found == {CONTROL: 4, "CEBPA+CEBPB": 8}
    assert summary["doubles"] == 1
    found = json.loads(made.uns["other_spellings"])["perturbation"]
    assert found == ({"CEBPA+CEBPB": sorted({"CEBPA+CEBPB", label})} if spelling != "A+B" else {})


@pytest.mark.parametrize(
    "label", ["KLF1+KLF1", "KLF1+control", "control+KLF1", "KLF1+NT-2", "KLF1+", "KLF1+nan", "klf1"]
)
def test_one_gene_with_a_filler_is_a_single(tmp_path, label):
    found, _, _ = taken(tmp_path, screen(["control", label] * 4), control="control")
    assert found == {CONTROL: 4, "KLF1": 4}


@pytest.mark.parametrize("mark", ["_", ",", "|", ";", "/", " and "])
def test_doubles_with_another_mark_are_refused_until_it_is_named(tmp_path, mark):
    labels = [CONTROL, "KLF1", f"KLF1{mark}MYC", f"HLA-A{mark}KLF1"] * 4
    said = refused(tmp_path, screen(labels))
    assert f"set label_separator '{mark}'" in said and f"KLF1{mark}MYC" in said
    found, _, _ = taken(tmp_path, screen(labels), label_separator=mark)
    assert found == {CONTROL: 4, "KLF1": 4, "KLF1+MYC": 4, "HLA-A+KLF1": 4}


def test_a_mark_inside_a_control_or_a_gene_does_not_part_it(tmp_path):
    labels = ["non_targeting", "KLF1_non_targeting", "KLF1_MYC"] * 4
    found, _, _ = taken(tmp_path, screen(labels), control="non_targeting", label_separator="_")
    assert found == {CONTROL: 4, "KLF1": 4, "KLF1+MYC": 4}
    assert cut("HLA-A-KLF1", ["-"], {"HLA-A"}) == ["HLA-A", "KLF1"]


def test_such_labels_are_single_genes_where_that_is_said(tmp_path, capsys):
    labels = [CONTROL, "KLF1", "MYC", "KLF1_MYC"] * 4
    found, _, _ = taken(tmp_path, screen(labels), label_separator="+")
    assert found["KLF1_MYC"] == 4
    assert "'KLF1_MYC' (a guide of KLF1)" in capsys.readouterr().err


# ---- labels that are no genes ----


def test_numbers_are_refused_and_the_column_with_genes_is_named(tmp_path):
    adata = screen([0, 1, 2] * 4)
    adata.obs["symbol"] = ["CEBPA", "KLF1", "MYC"] * 4
    said = refused(tmp_path, adata, control="0")
    assert "2 of 2 perturbations are not genes: '1' (a number)" in said
    assert "'symbol' (such as 'CEBPA')" in said


@pytest.mark.parametrize(
    ("label", "looks"),
    [
        ("17", "a number"),
        ("ENSG00000105610", "an Ensembl id"),
        ("KLF1_sg2", "a guide of KLF1"),
        ("sgKLF1", "a guide of KLF1"),
        ("shKLF1", "a guide of KLF1"),
        ("heat shock", "no gene symbol"),
    ],
)
def test_few_labels_that_are_no_genes_are_named(tmp_path, capsys, label, looks):
    found, _, _ = taken(tmp_path, screen([CONTROL, "KLF1", "MYC", label] * 4))
    assert found[label] == 4
    assert f"1 of 3 perturbations are not genes: '{label}' ({looks})" in capsys.readouterr().err


def test_genes_that_are_not_measured_are_named(tmp_path, capsys):
    taken(tmp_path, screen([CONTROL, "KLF1", "GATA1", "BRCA1-AS1"] * 4))
    assert "not among the measured ones: 'BRCA1-AS1', 'GATA1'" in capsys.readouterr().err


def test_a_model_that_knows_few_genes_or_perturbations_is_refused():
    vocabulary = {"<pad>": 0, "KLF1": 1, "MYC": 2, "RPL3": 3}
    with pytest.raises(InputError, match=r"1 of 3 genes are in the vocabulary.*'Klf1'.*'KLF1'"):
        check_symbols(["Klf1", "Myc", "RPL3"], vocabulary)
    check_symbols(["Klf1", "MYC"], vocabulary)
    tokens = GeneTokens.of(["KLF1", "RPL3"], vocabulary)
    check_told(["KLF1", "nobody"], tokens, True)
    with pytest.raises(InputError, match=r"identify 1 of 3 training perturbations.*'7', '8'"):
        check_told(["KLF1", "7", "8"], tokens, True)


# ---- bytes and numbers ----


def test_labels_that_are_bytes_are_read(tmp_path):
    screen([CONTROL, "KLF1"] * 4).write_h5ad(tmp_path / "text.h5ad")
    text = h5py.special_dtype(vlen=bytes)
    with h5py.File(tmp_path / "text.h5ad", "r+") as file:
        for column, values in (("gene", [CONTROL, "KLF1"]), ("cell_line", ["k562"] * 2)):
            del file[f"obs/{column}"]
            data = [value.encode() for value in values * 4]
            file["obs"].create_dataset(column, data=data, dtype=text)
    ingest(str(tmp_path / "text.h5ad"), tmp_path / "cells")
    made = anndata.read_h5ad(tmp_path / "cells" / "cells.h5ad")
    assert set(made.obs["perturbation"]) == {CONTROL, "KLF1"}
    assert set(made.obs["cell_line"]) == {"k562"}


def test_what_bytes_look_like_when_printed_is_read_too(tmp_path):
    labels = [f"b'{CONTROL}'", "b'KLF1'"] * 4
    found, _, _ = taken(tmp_path, screen(labels, "b'k562'"), control=f"b'{CONTROL}'")
    assert found == {CONTROL: 4, "KLF1": 4}


@pytest.mark.parametrize("kind", [int, float, str])
@pytest.mark.parametrize("lines", [[1, "2"], [1.0, "2.0"], ["1", "2"]])
def test_lines_that_are_numbers_are_found_by_them(tmp_path, kind, lines):
    labels = [CONTROL, CONTROL, "KLF1", "MYC"] * 4
    numbers = [kind(i // 8 + 1) for i in range(16)]
    taken(tmp_path, screen(labels, numbers))
    train, test = lines
    split(tmp_path / "cells", tmp_path / "splits", train_lines=[train], test_line=test)
    table = pd.read_parquet(tmp_path / "splits" / "splits.parquet")
    assert set(table.loc[table["role"] == "test", "cell_line"]) == {"2"}


def test_text_of_what_a_column_or_a_parameter_holds():
    values = [1, 1.0, b"1", "1", " 1 ", "b'1'", np.int8(1), np.float32(1)]
    assert {text_of(value) for value in values} == {"1"}
    assert text_of(1.5) == "1.5" and text_of(True) == "True" and text_of("b'") == "b'"


# ---- one thing, one name ----


@pytest.mark.parametrize(
    ("one", "other"), [("K562", "k-562"), ("Hep G2", "HepG2"), ("RPE1", " rpe_1"), ("1", "1.0")]
)
def test_spellings_of_one_line(one, other):
    assert line_key(one) == line_key(other)
    assert line_named(other, [one, "else"]) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.1", "11"),
        ("CD4+", "CD4-"),
        ("-1", "1"),
        ("K562", "K563"),
        ("?", "!"),
        ("donor 1-1", "donor 11"),
    ],
)
def test_lines_that_are_two(one, other):
    assert line_key(one) != line_key(other)


def test_lines_that_differ_by_case_or_punctuation_are_one(tmp_path, capsys):
    lines = ["K562"] * 8 + ["k-562"] * 4
    _, _, made = taken(tmp_path, screen([CONTROL, "KLF1"] * 6, lines))
    assert set(made.obs["cell_line"]) == {"K562"}
    assert json.loads(made.uns["other_spellings"])["cell_line"] == {"K562": ["K562", "k-562"]}
    assert "cell_line: 'K562', 'k-562' are 'K562'" in capsys.readouterr().err


def spelt(draw: Any, genes: list[str]) -> str:
    """Write a perturbation in one of the ways that people do."""
    parts = draw(st.permutations(genes * draw(st.integers(1, 2))))
    if draw(st.booleans()):
        parts = [*parts, draw(st.sampled_from(["ctrl", CONTROL, "NT-1", ""]))]
    blank = st.sampled_from(["", " ", "\t", "\u00a0"])
    parts = [draw(blank) + draw(st.sampled_from([p, p.lower()])) + draw(blank) for p in parts]
    return "+".join(parts)


@st.composite
def sources(draw: Any) -> tuple[list[str], list[str]]:
    """Draw labels and lines of cells: two lines, each with controls, in many spellings."""
    ways = {"k562": ["K562", "k562", "K-562", "k562 "], "rpe1": ["RPE1", "rpe-1", "Rpe_1"]}
    labels, lines = [], []
    for line in ways:
        wanted = draw(st.lists(st.sets(st.sampled_from(GENES), min_size=1, max_size=2), min_size=4))
        for names in [[CONTROL]] * 4 + [["KLF1"], ["MYC"]] + [sorted(x) for x in wanted]:
            labels.append(CONTROL if names == [CONTROL] else spelt(draw, names))
            lines.append(draw(st.sampled_from(ways[line])))
    return labels, lines


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(sources())
def test_no_two_names_of_one_thing_have_a_role(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("one")
    labels, lines = source
    taken(folder, screen(labels, lines))
    roles = {"train_lines": ["k562"], "test_line": "rpe1", "val_fraction": 0.3}
    split(folder / "cells", folder / "splits", **roles)
    table = pd.read_parquet(folder / "splits" / "splits.parquet")
    for column, key in (
        ("perturbation", lambda x: frozenset(genes_of(x))),
        ("cell_line", line_key),
    ):
        names = set(table[column])
        assert len({key(name) for name in names}) == len(names)
    assert all(is_bare(name) and canonical_name(name) == name for name in table["perturbation"])
    own = table[table["role"].isin(["train", "val"])]
    roles_of = own.groupby(["cell_line", "perturbation"])["role"].nunique()
    assert (roles_of == 1).all()
    assert not set(own["cell_line"]) & set(table.loc[table["role"] == "test", "cell_line"])


@given(st.text(max_size=20))
def test_a_plain_text_stays_as_it_is(text):
    assert plain(plain(text)) == plain(text)
    assert text_of(canonical_name(text)) == canonical_name(canonical_name(text)) or "'" in text


def test_several_sources_have_one_name_for_each_line_and_perturbation():
    names = [CONTROL, "g1a", "G1A", "klf1", "KLF1", "KLF1", "g1a+myc", "Myc", "MYC", "orf1"]
    lines = ["K562", *["k562"] * 8, "rpe1"]
    obs = pd.DataFrame({"cell_line": lines, "perturbation": names})
    found = with_one_name_each(obs, {"G1A", "Myc", "MYC"})
    assert list(found["cell_line"]) == [*["k562"] * 9, "rpe1"]
    expected = [CONTROL, "G1A", "G1A", *["KLF1"] * 3, "G1A+myc", "Myc", "MYC", "orf1"]
    assert list(found["perturbation"]) == expected


def test_names_in_a_split_file_and_in_what_is_asked_for_are_those_of_the_cells(tmp_path):
    labels = [CONTROL, CONTROL, "KLF1", "MYC", "CEBPA+CEBPB"] * 4
    taken(tmp_path, screen(labels, ["K562", "rpe1"] * 10))
    (tmp_path / "split.toml").write_text(
        '[training]\nx = "train"\n[fewshot."x.RPE-1"]\nval = ["MYC"]\ntest = ["CEBPB+CEBPA"]\n'
    )
    split(
        tmp_path / "cells",
        tmp_path / "splits",
        train_lines=["k-562"],
        test_line="RPE1",
        perturbations=["CEBPB + CEBPA", "CEBPA+CEBPB"],
        split_file=str(tmp_path / "split.toml"),
    )
    table = pd.read_parquet(tmp_path / "splits" / "splits.parquet")
    assert set(table.loc[table["role"] == "test", "perturbation"]) == {"CEBPA+CEBPB"}
    asked = json.loads((tmp_path / "splits" / "asked.json").read_text())
    assert asked["perturbations"] == ["CEBPA+CEBPB"]


def test_cells_in_which_one_thing_has_two_names_are_refused():
    for lines, names in ((["K562", "k562"], ["A"]), (["k562"], ["A+B", "B+A"])):
        labels = Labels(np.array([]), lines, names, np.array([]), np.array([]))
        with pytest.raises(InputError, match="are names of one"):
            check_one_name_each(labels, "cells.h5ad")


# ---- text that travels ----

STEERING = ("KLF1\nMYC", "\x1b[31mKLF1", "KLF1\u202eCYM", "KLF1\x00", "KLF1\u2028MYC", "\u2066KLF1")


@pytest.mark.parametrize("name", STEERING)
@pytest.mark.parametrize("where", ["perturbation", "line", "gene", "cell"])
def test_names_that_steer_a_terminal_are_refused_written_out(tmp_path, capsys, name, where):
    if "\0" in name:
        name = name.replace("\0", "\x07")  # HDF5 ends a text there
    labels, lines = [CONTROL, "KLF1"] * 6, ["k562"] * 12
    adata = screen(labels, lines)
    if where == "perturbation":
        adata.obs["gene"] = [CONTROL, name] * 6
    elif where == "line":
        adata.obs["cell_line"] = [name] * 12
    elif where == "gene":
        adata.var_names = [name, *adata.var_names[1:]]
    else:
        adata.obs_names = [name, *adata.obs_names[1:]]
    with pytest.raises(InputError, match="has control characters") as error:
        taken(tmp_path, adata)
    told = str(error.value) + capsys.readouterr().err
    assert not any(is_hidden(character) for character in told.replace("\n", ""))
    assert "\\x1b" in told or "\\n" in told or "\\u2" in told or "\\x07" in told


def test_blanks_at_the_ends_of_a_name_are_still_taken_off(tmp_path):
    _, _, made = taken(tmp_path, screen([CONTROL, "KLF1\r\n"] * 6, ["k562\n"] * 12))
    assert set(made.obs["perturbation"]) == {CONTROL, "KLF1"}
    assert set(made.obs["cell_line"]) == {"k562"}


@pytest.mark.parametrize("name", ["STAT1 ", " STAT1", "A +B", "A+ B", "A+", "", "A+ctrl"])
def test_blanks_fillers_and_missing_halves_are_no_part_of_a_bare_name(name):
    assert is_bare("A+B") and is_bare("STAT1") and not is_bare(name)


@pytest.mark.parametrize("name", STEERING)
def test_such_a_name_is_no_bare_one_and_no_message_holds_it(name):
    assert not is_bare(name)
    for text in (str(InputError(f"gene {name}")), shortlist([name])):
        assert not any(map(is_hidden, text))
