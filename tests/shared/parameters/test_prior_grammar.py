"""The parameter `prior`: every form of it, round trips, and what is said of what is none."""

import contextlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.prior.kinds import KINDS
from components.prior.vector_tables import READERS
from components.shared.parameters.prior_grammar import (
    EFFECTS,
    FORMS,
    NONE,
    TABLE_ENDINGS,
    Prior,
    effects_of,
    gene_part,
    parse_prior,
    uris,
    with_uris,
)
from components.shared.telling.errors import InputError

PATHS = st.text(string.ascii_letters + string.digits + "._-/ ,()&%+é", min_size=1, max_size=12).map(
    lambda text: f"d/{text.strip()}x"
)
ADDRESSES = st.builds("https://h/{}?sig={}".format, st.sampled_from("abc"), st.sampled_from("12"))
URIS = st.one_of(PATHS, st.builds("gs://b/{}".format, st.sampled_from("xyz")), ADDRESSES)
WIDTHS = st.integers(1, 8192).map(str)
NAMES = st.text(string.ascii_letters + "&%,()é ", min_size=1, max_size=5)


def with_options(kind, uri, **options):
    """Strategy of a leaf with any of the options."""
    return st.builds(
        lambda uri, chosen: Prior(kind, uri, chosen),
        uri,
        st.fixed_dictionaries({}, optional=options),
    )


LEAVES = st.one_of(
    st.just(Prior("none")),
    st.just(Prior("scgpt")),
    WIDTHS.map(lambda width: Prior("random", width)),
    with_options("table", PATHS.map("{}.npz".format), aliases=URIS),
    with_options(
        "graph",
        URIS,
        width=WIDTHS,
        columns=st.tuples(NAMES, NAMES).map("+".join),
        aliases=URIS,
    ),
    with_options("annotation", URIS, width=WIDTHS, evidence=st.just("EXP+IDA"), aliases=URIS),
    st.builds(
        lambda uri, fasta: Prior("esm2", uri, {"fasta": fasta}),
        URIS,
        URIS,
    ),
)
PRIORS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.filter(lambda prior: gene_part(prior).kind != NONE).map(
            lambda prior: Prior("shuffled", members=(prior,))
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda members: Prior("concat", members=tuple(members))
        ),
    ),
    max_leaves=5,
)


@given(PRIORS)
def test_the_text_of_a_prior_asks_for_the_same_prior(prior):
    with contextlib.suppress(InputError):  # nested too deep
        assert parse_prior(str(prior)) == prior


@given(st.text(max_size=40) | st.text("concatshufledgrp:(),?=& x", max_size=60))
def test_any_text_is_taken_apart_or_refused(text):
    with contextlib.suppress(InputError):  # one line whatever the text: InputError sees to it
        prior = parse_prior(text)
        assert parse_prior(str(prior)) == prior


@given(PRIORS)
def test_every_uri_is_found_and_can_be_changed(prior):
    pinned = with_uris(prior, lambda uri: f"{uri}#sha256={'0' * 64}")
    assert uris(pinned) == [f"{uri}#sha256={'0' * 64}" for uri in uris(prior)]
    with contextlib.suppress(InputError):
        assert parse_prior(str(pinned)) == pinned


@given(st.lists(PRIORS, max_size=3), st.booleans())
def test_the_gene_part_is_flat_and_keeps_the_order(members, with_effects):
    asked = [*members, Prior(EFFECTS)] if with_effects else members or [Prior(NONE)]
    prior = Prior("concat", members=tuple(asked))
    part = gene_part(prior)
    assert bool(effects_of(prior)) == with_effects
    assert effects_of(part) is None
    flat = part.members if part.kind == "concat" else (part,)
    assert all(member.kind != "concat" for member in flat)
    assert part.kind == NONE or all(member.kind != NONE for member in flat)

    def leaves(prior):
        if prior.kind == "concat":
            return [leaf for member in prior.members for leaf in leaves(member)]
        return [] if prior.kind in (NONE, EFFECTS) else [prior]

    assert leaves(part) == leaves(prior)


@pytest.mark.parametrize(
    ("text", "prior"),
    [
        ("none", Prior("none")),
        (" effects ", Prior("effects")),
        ("effects:gs://b/cells", Prior("effects", "gs://b/cells")),
        ("my(1).parquet", Prior("table", "my(1).parquet")),
        ("https://u:p@h/t.npz?sig=1&x=2", Prior("table", "https://u:p@h/t.npz?sig=1&x=2")),
        ("table:t.pt#sha256=" + "0" * 64, Prior("table", "t.pt#sha256=" + "0" * 64)),
        ("graph:https://h/p.csv?sig=1", Prior("graph", "https://h/p.csv?sig=1")),
        (
            "graph:https://h/p.csv?sig=1?width=64&columns=a+b",
            Prior("graph", "https://h/p.csv?sig=1", {"width": "64", "columns": "a+b"}),
        ),
        (
            "esm2:hf://models/facebook/esm2_t6_8M_UR50D@main?fasta=https://h/p.fa?x=1%26y=2",
            Prior(
                "esm2",
                "hf://models/facebook/esm2_t6_8M_UR50D@main",
                {"fasta": "https://h/p.fa?x=1&y=2"},
            ),
        ),
        (
            "concat(effects,shuffled:concat(scgpt, a%2Cb.pt) , random:08)",
            Prior(
                "concat",
                members=(
                    Prior("effects"),
                    Prior(
                        "shuffled",
                        members=(
                            Prior("concat", members=(Prior("scgpt"), Prior("table", "a,b.pt"))),
                        ),
                    ),
                    Prior("random", "8"),
                ),
            ),
        ),
    ],
)
def test_a_prior_is_taken_apart(text, prior):
    assert parse_prior(text) == prior


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "prior '' is unknown; allowed: none, table:<uri>"),
        ("grap:x.csv", "'grap:…' is unknown, nearest: 'graph'"),
        ("Scgpt", "nearest: 'scgpt'"),
        ("none:x", "nothing may follow; write none"),
        ("scgpt(x)", "nothing may follow; write scgpt"),
        ("table:", "is incomplete; expected table:<uri>"),
        ("table", "is incomplete; expected table:<uri>"),
        ("table:x.csv", "expected a file that ends in .safetensors.*graph:<uri>"),
        ("effects:", "is incomplete"),
        ("effects(x)", "is incomplete"),
        ("random:", "is incomplete"),
        ("random:many", "width 'many' is not a whole number from 1 to 8192"),
        ("random:0", "width '0'"),
        ("random:9000", "width '9000'"),
        ("graph:p.csv?width=-1", "width '-1'"),
        ("graph:p.csv?widht=3", "'widht' is not an option of graph, nearest: 'width'"),
        ("graph:p.csv?evidence=EXP", "'evidence' is not an option of graph"),
        ("graph:p.csv?width=3&width=4", "one non-empty 'width'"),
        ("graph:p.csv?", "'' is not an option of graph; allowed: width, columns, aliases"),
        ("graph:p.csv?columns=a", "two names of columns"),
        ("annotation:p.csv?evidence=exp", "evidence codes"),
        ("effects:cells?width=3", "not an option of effects; allowed: none"),
        ("esm2:folder", "needs the protein sequences"),
        ("shuffled:none", "nothing to shuffle"),
        ("shuffled:concat(none, none)", "nothing to shuffle"),
        ("shuffled:concat(scgpt, effects)", r"write concat\(effects, shuffled:<prior>\)"),
        ("shuffled", "expected shuffled:<prior>"),
        ("concat", "expected concat"),
        ("concat()", "empty member"),
        ("concat(scgpt,)", "empty member"),
        ("concat(scgpt", "closed at the end"),
        ("concat(scgpt))", "parentheses do not pair"),
        ("concat(graph:a(.csv, scgpt)", "parentheses do not pair; in a URI write them %28"),
        ("concat(effects, concat(effects:x))", "effects comes more than once"),
        ("concat(" * 20 + "scgpt" + ")" * 20, "nested more than 8 deep"),
        ("shuffled:" * 2000 + "scgpt", "nested more than 8 deep"),
    ],
)
def test_what_is_no_prior_is_told_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_prior(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://u:hush@h/t.csv?sig=hush",
        "table:https://u:hush@h/t.csv?sig=hush",
        "tabel:https://u:hush@h/t.npz?sig=hush",
        "concat(scgpt, https://u:hush@h/t.csv?sig=hush)",
        "graph:x.csv?aliases=https://u:hush@h/t.csv&fasta=hush",
        "shuffled:graph:https://u:hush@h/t.csv?width=hush",
    ],
)
def test_no_message_holds_the_secrets_of_a_url(text):
    with pytest.raises(InputError) as error:
        parse_prior(text)
    assert "u:hush" not in str(error.value) and "sig=hush" not in str(error.value)


def test_the_shown_text_holds_no_secrets():
    url = "https://u:hush@h/t.csv?sig=hush"
    quoted = url.replace("&", "%26")
    prior = parse_prior(f"concat(graph:{url}?aliases={quoted}, esm2:{url}?fasta={quoted})")
    assert prior.shown == (
        "concat(graph:https://h/t.csv?…?aliases=https://h/t.csv?…, "
        "esm2:https://h/t.csv?…?fasta=https://h/t.csv?…)"
    )


def test_each_kind_has_a_form_and_what_makes_it():
    assert set(FORMS) - {"none", "effects"} == set(KINDS)
    assert set(TABLE_ENDINGS) == set(READERS)
    for kind, form in FORMS.items():
        assert re.match(kind, form)
