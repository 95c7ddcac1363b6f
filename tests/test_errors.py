from lightsleeper.errors import did_you_mean


def test_the_nearest_name_is_offered():
    assert did_you_mean("sparsty", ["sparsity", "bits"]) == " Did you mean 'sparsity'?"


def test_all_names_are_listed_sorted_when_none_is_near():
    assert did_you_mean("xyz", ["sparsity", "bits", "bits"]) == " Valid: bits, sparsity."


def test_nothing_is_said_without_options():
    assert did_you_mean("xyz", []) == ""
