"""What `make mutants` tries, and with which tests."""

from benchmarks.mutants import PACKAGES, bounded, sampled
from pipelines.images import ROOT

NAMES = [f"m{i:03d}" for i in range(200)]


def test_a_seed_draws_the_same_sample_and_a_larger_one_holds_it():
    few = sampled(NAMES, 20, "1")
    assert few == sampled(NAMES[::-1], 20, "1") and len(set(few)) == 20
    assert set(few) < set(sampled(NAMES, 60, "1"))
    assert few != sampled(NAMES, 20, "2")
    assert sampled(NAMES, 1000, "1") == NAMES


def test_of_a_functions_tests_the_quickest_run_and_one_at_least():
    seconds = {"slow": 40.0, "quick": 1.0, "middling": 19.0}
    found = bounded({"f": ["slow", "middling", "quick"], "g": ["slow"], "h": []}, seconds, 20.0)
    assert found == {"f": ["quick", "middling"], "g": ["slow"], "h": []}


def test_tests_beside_those_that_call_a_function_are_run_where_there_is_time():
    seconds = {"a::made": 1.0, "a::reads": 2.0, "a::slow": 20.0, "b::other": 0.1}
    assert bounded({"f": ["a::made"]}, seconds, 20.0) == {"f": ["a::made", "a::reads"]}


def test_each_package_has_tests_of_its_own():
    for package in PACKAGES:
        assert (ROOT / "components" / package).is_dir()
        assert list((ROOT / "tests" / package).rglob("test_*.py")), package
