"""What stages read of each other's documents, where a part is missing or of another kind."""

import pytest

from components.shared.artifacts.evaluation import read_numbers
from components.shared.artifacts.shapes import FULL_STATS
from components.shared.storage.documents import check_shape, read_json
from components.shared.telling.errors import InputError


def test_a_folder_in_place_of_a_document_is_told(tmp_path):
    (tmp_path / "stats.json").mkdir()
    with pytest.raises(InputError, match=r"stats\.json: is a folder; run it again"):
        read_json(tmp_path / "stats.json", "stats.json", "run it again")


@pytest.mark.parametrize(
    "tests", ["null", "[]", "3", '{"mae": 1}', '{"mae": {"x": null}}', '{"mae": {"x": {}}}']
)
def test_tests_of_metrics_that_have_no_verdict_are_refused(tmp_path, tests):
    (tmp_path / "metrics.json").write_text(f'{{"model": {{}}, "tests": {tests}}}')
    with pytest.raises(InputError, match=r"metrics\.json: tests"):
        read_numbers(tmp_path)


def test_statistics_that_do_not_tell_how_a_model_was_trained_are_refused():
    kinds = {str: "x", int: 1}
    whole = {
        key: kinds.get(kind if isinstance(kind, type) else int)
        for key, kind in FULL_STATS.items()
        if not key.endswith("?")
    }
    check_shape(whole, FULL_STATS, "stats", "again")
    for key in whole:
        with pytest.raises(InputError, match=f"{key} is missing"):
            check_shape({k: v for k, v in whole.items() if k != key}, FULL_STATS, "stats", "again")
