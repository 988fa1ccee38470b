"""Which parts of a label are genes."""

import pytest

from components.shared.reading.names import Reader

READER = Reader(frozenset({"A", "B", "AAVS1"}), frozenset({"mock", "AAVS1"}))


@pytest.mark.parametrize(
    ("label", "genes"),
    [
        ("A+B", ("A", "B")),
        ("A+mock", ("A",)),  # a control's label, whatever it looks like
        ("A+AAVS1", ("A",)),  # ... though a gene of that name is measured
        ("A+ctrl", ("A",)),
        ("A+NT-1", ("A",)),
        ("AAVS1", ()),
    ],
)
def test_a_part_that_stands_for_a_control_is_no_second_gene(label, genes) -> None:
    assert READER.genes_of(label) == genes
