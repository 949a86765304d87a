"""What scripts/check_promises.py lets pass and what it refuses."""

from scripts.check_promises import PROMISES, is_named_by, missing, named_tests, not_passed, unkept

HEAD = "# The promises\n\nA test looks like `tests/core/test_a.py::test_not_counted`.\n\n"


def document(**sections: str) -> str:
    return HEAD + "".join(
        f"## {promise} Some words\n\n{sections.get(promise, 'not yet: nothing to attack.')}\n\n" for promise in PROMISES
    )


def test_tests_are_found_under_the_promise_that_names_them() -> None:
    text = document(P1="- a: `tests/core/test_a.py::test_x`, `tests/core/test_b.py::TestB::test_y[two words]`")
    assert named_tests(text)["P1"] == ["tests/core/test_a.py::test_x", "tests/core/test_b.py::TestB::test_y[two words]"]
    assert named_tests(text)["P2"] == []


def test_a_promise_that_says_what_is_missing_passes() -> None:
    assert list(unkept(document())) == []
    assert list(unkept(document(P2="- Not yet: streams."))) == []


def test_a_promise_without_tests_or_reason_is_refused() -> None:
    assert list(unkept(document(P3="It will be fine."))) == ['P3 names no test, nor says "not yet: …"']
    assert len(list(unkept(document(P3="not yet:")))) == 1


def test_a_promise_that_is_not_there_is_refused() -> None:
    assert list(unkept(document().replace("## P5 ", "## "))) == ["P5 has no heading"]


def test_a_file_is_not_a_test() -> None:
    assert list(unkept(document(P1="`tests/core/test_a.py`"))) == [
        "P1 names the file tests/core/test_a.py, not a test in it"
    ]


def test_a_name_means_its_parameters_and_a_class_its_tests() -> None:
    assert is_named_by("tests/a.py::test_x", "tests/a.py::test_x")
    assert is_named_by("tests/a.py::test_x", "tests/a.py::test_x[sqlite]")
    assert is_named_by("tests/a.py::TestA", "tests/a.py::TestA::test_x[sqlite]")
    assert not is_named_by("tests/a.py::test_x", "tests/a.py::test_x_and_more")
    assert not is_named_by("tests/a.py::test_x[sqlite]", "tests/a.py::test_x[memory]")


def test_a_test_that_no_one_wrote_is_missing() -> None:
    assert missing(["tests/a.py::test_x", "tests/a.py::test_y"], ["tests/a.py::test_x[1]"]) == ["tests/a.py::test_y"]


def test_a_named_test_must_run_and_pass_with_every_parameter() -> None:
    outcomes = {
        "tests/a.py::test_x[1]": "passed",
        "tests/a.py::test_x[2]": "skipped",
        "tests/a.py::test_y": "failed",
        "tests/a.py::test_z": "passed",
    }
    assert list(not_passed(["tests/a.py::test_z"], outcomes)) == []
    assert list(not_passed(["tests/a.py::test_x"], outcomes)) == ["tests/a.py::test_x[2] was skipped"]
    assert list(not_passed(["tests/a.py::test_y"], outcomes)) == ["tests/a.py::test_y failed"]
    assert list(not_passed(["tests/a.py::test_w"], outcomes)) == ["tests/a.py::test_w did not run"]
