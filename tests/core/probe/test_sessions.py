"""Whether a session survives is read from how the server reacts; each conclusion from the reactions that lead to it."""

from typing import Any

import pytest

from coatcheck.probe.options import Version
from coatcheck.probe.sessions import Credential, Reaction, judge_session, made_up_like

KNOWN = b"known"
NEW = (("sid", "new"),)


def reaction(
    version: Version, credential: Credential, connection: int, *, status: int = 200, sets: Any = (), **more: Any
) -> Reaction:
    sent = () if credential == "none" else (("sid", "made" if credential == "made up" else "real"),)
    fields: dict[str, Any] = {"other_address": False, "location": None, "digest": KNOWN, **more}
    return Reaction(
        version=version,
        credential=credential,
        connection=connection,
        status=status,
        set_values=sets,
        sent_values=sent,
        **fields,
    )


def gives_new_ones(*more: Reaction) -> list[Reaction]:
    """A server that gives a new cookie to who comes without a known one."""
    return [
        reaction("h1.0", "none", 1, sets=NEW),
        reaction("h1.0", "ours", 2),
        reaction("h1.1", "ours", 3),
        reaction("h2", "ours", 4, other_address=True),
        *more,
    ]


def test_a_session_that_survives_everything_is_said_to() -> None:
    report = judge_session(
        ["sid"], gives_new_ones(reaction("h1.0", "ours", 5), reaction("h1.1", "made up", 3, sets=NEW))
    )
    assert report.known_again == "yes"
    assert report.survives_connection == "yes"
    assert report.survives_version == {"h1.0": "yes", "h1.1": "yes", "h2": "yes"}
    assert report.survives_address == "yes"
    assert report.adopts_made_up == "no"


def test_one_lost_over_a_version_is_noticed() -> None:
    report = judge_session(["sid"], gives_new_ones(reaction("h3", "ours", 6, sets=NEW)))
    assert report.survives_version["h3"] == "no"
    assert report.survives_version["h1.1"] == "yes"


def test_one_lost_on_another_connection_or_address_is_noticed() -> None:
    lost = reaction("h1.0", "ours", 7, sets=NEW, other_address=True)
    report = judge_session(["sid"], gives_new_ones(lost))
    assert (report.survives_connection, report.survives_address) == ("no", "no")


def test_a_made_up_id_that_gets_no_new_one_is_adopted() -> None:
    report = judge_session(["sid"], gives_new_ones(reaction("h1.1", "made up", 3)))
    assert report.adopts_made_up == "yes"


def test_a_made_up_id_that_is_handed_back_is_adopted_whatever_else_differs() -> None:
    every = [reaction("h1.1", "ours", 1), reaction("h1.1", "made up", 1, sets=(("sid", "made"),))]
    assert judge_session(["sid"], every).adopts_made_up == "yes"


def test_a_logged_in_page_is_told_by_its_status() -> None:
    every = [
        reaction("h1.1", "ours", 1),
        reaction("h1.1", "ours", 2),
        reaction("h1.1", "none", 1, status=401),
        reaction("h1.1", "made up", 1, status=401),
        reaction("h2", "ours", 3, status=401),
    ]
    report = judge_session(["sid"], every)
    assert (report.known_again, report.adopts_made_up, report.survives_version["h2"]) == ("yes", "no", "no")
    assert "200 with it, 401 without" in report.words


def test_a_login_page_elsewhere_is_told_by_its_address() -> None:
    every = [
        reaction("h1.1", "ours", 1, status=302, location="/home"),
        reaction("h1.1", "none", 1, status=302, location="/login"),
        reaction("h1.1", "made up", 1, status=302, location="/login"),
    ]
    assert judge_session(["sid"], every).adopts_made_up == "no"


def test_the_page_itself_tells_where_nothing_else_does() -> None:
    every = [reaction("h1.1", "ours", number) for number in (1, 1, 2)]
    every += [reaction("h1.1", "none", 1, digest=b"anonymous"), reaction("h1.1", "made up", 1, digest=b"anonymous")]
    report = judge_session(["sid"], every)
    assert (report.known_again, report.survives_connection, report.adopts_made_up) == ("yes", "yes", "no")


def test_pages_that_differ_each_time_tell_nothing() -> None:
    every = [reaction("h1.1", "ours", 1, digest=bytes([number])) for number in range(4)]
    every.append(reaction("h1.1", "none", 1, digest=b"other"))
    assert judge_session(["sid"], every).known_again == "cannot tell"


def test_a_server_that_answers_all_alike_tells_nothing() -> None:
    every = [reaction("h1.1", "none", 1), reaction("h1.1", "ours", 1), reaction("h2", "ours", 2)]
    report = judge_session(["sid"], every)
    assert report.known_again == "cannot tell"
    assert set(report.survives_version.values()) == {"cannot tell"}


def test_a_cookie_that_is_renewed_each_time_tells_nothing_by_that() -> None:
    every = [reaction("h1.1", credential, 1, sets=NEW) for credential in ("none", "ours", "ours", "made up")]
    report = judge_session(["sid"], every)
    assert (report.known_again, report.adopts_made_up) == ("cannot tell", "no")


def test_without_a_session_cookie_nothing_was_tried() -> None:
    report = judge_session([], [reaction("h1.1", "none", 1)])
    assert report.known_again == "not tried" and "--cookie" in report.words
    assert "--requests" in judge_session(["sid"], [reaction("h1.1", "none", 1)]).words


@pytest.mark.parametrize("value", ["Zk3rQ0v9nS.6yB1tX8wLm4aPd", "s%3AabcDEF.sig%2Fx", "0123456789abcdef", "", "--.."])
def test_what_is_made_up_has_the_same_shape(value: str) -> None:
    made = made_up_like(value)

    def shape(text: str) -> list[str]:
        return ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else c for c in text]

    if value:
        assert shape(made) == shape(value)
    if any(char.isalnum() for char in value):
        assert made != value
