from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wing_gong import hard

from sim.check.general import CAS

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "scripts/check_history.py")]

GOOD = """INFO  jepsen.util - 0 :invoke :write 1
INFO  jepsen.util - 0 :ok :write 1
INFO  jepsen.util - 1 :invoke :read nil
INFO  jepsen.util - 1 :ok :read 1
"""
BAD = GOOD.replace(":ok :read 1", ":ok :read 2")


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def hard_log() -> str:
    """More than a tenth of a second, or a minute, can decide, as a log."""
    events = []
    for op in hard():
        value = f"[{op.expected} {op.value}]" if op.kind == CAS else str(op.value)
        events.append((op.invoke, 0, op, f":invoke :{op.kind} {value}"))
        events.append((op.returned or 0, 1, op, f":ok :{op.kind} {value}"))
    events.sort(key=lambda event: event[:2])
    return "\n".join(f"INFO jepsen.util - {op.process} {text}" for _, _, op, text in events)


def test_the_exit_code_is_the_verdict(tmp_path: Path) -> None:
    file = tmp_path / "history.log"
    file.write_text(GOOD)
    good = run(str(file), "--model", "cas-register")
    assert (good.returncode, good.stderr) == (0, "")
    assert f"{file}: linearizable" in good.stdout
    bad = run("-", "--model", "cas-register", text=BAD)
    assert bad.returncode == 1
    assert "cannot be explained: process 1: read -> 2 (line 3)" in bad.stdout
    assert "possible values when it returned: 1" in bad.stdout
    assert "✗" in bad.stdout
    unreadable = run("-", "--model", "cas-register", text="what?")
    assert unreadable.returncode == 2
    assert "<stdin>: cannot tell its format" in unreadable.stderr
    assert run(str(tmp_path / "absent"), "--model", "kv").returncode == 2
    undecided = run("-", "--model", "cas-register", "--budget", "0.1", text=hard_log())
    assert undecided.returncode == 3
    assert "undecided: the time given was used up" in undecided.stdout


def test_programs_get_one_object_and_people_a_drawing(tmp_path: Path) -> None:
    picture = tmp_path / "picture.html"
    done = run(
        "-",
        "--model",
        "cas-register",
        "--format",
        "jepsen-log",
        "--json",
        "--picture",
        str(picture),
        text=BAD,
    )
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["linearizable"] is False
    assert answer["failed"]["line"] == 3
    assert answer["cells"][0]["possible_values"] == [1]
    page = picture.read_text()
    assert 'class="illegal"' in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    error = run("-", "--model", "kv", "--json", text="[")
    assert error.returncode == 2
    assert "never closed" in json.loads(error.stdout)["error"]


def test_a_file_without_a_client_is_no_linearizable_history() -> None:
    text = "INFO  jepsen.util - :nemesis :info :start nil"
    done = run("-", "--model", "cas-register", "--json", text=text)
    assert done.returncode == 2
    assert "<stdin>: nothing to check" in done.stderr
    assert "1 event of the nemesis" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 :invoke :read nil\n0 :fail :read nil", "1 more failed"),
        ("0 :invoke :write 1\n0 :info :write :timed-out", "1 without an answer"),
    ],
)
def test_a_history_in_which_nobody_had_an_answer_is_linearizable_and_says_that_nothing_was_checked(
    text: str, words: str
) -> None:
    lines = "\n".join(f"INFO  jepsen.util - {line}" for line in text.split("\n"))
    done = run("-", "--model", "cas-register", text=lines)
    assert done.returncode == 0
    assert "Nothing was checked" in done.stdout
    assert words in done.stdout


def test_what_was_passed_over_is_told() -> None:
    text = f"INFO  jepsen.util - :nemesis :info :start nil\nINFO  jepsen.core - up\nINFO  jepsen.core - well\n{GOOD}"
    told = run("-", "--model", "cas-register", text=text).stdout
    assert "passed over: 1 event of the nemesis, 2 lines of the log that are no event" in told
    answer = json.loads(run("-", "--model", "cas-register", "--json", text=text).stdout)
    assert (answer["passed_over_events"], answer["passed_over_lines"]) == (1, 2)


@pytest.mark.parametrize("name", ["\ud800", "\x1b[31mred", "a\nb"])
def test_no_name_of_a_process_reaches_the_terminal_raw(name: str, tmp_path: Path) -> None:
    def history(value: int | None) -> str:
        events = (("invoke", "read", None), ("ok", "read", value))
        return "\n".join(
            json.dumps({"process": name, "type": kind, "f": f, "value": found}) for kind, f, found in events
        )

    picture = tmp_path / "picture.html"
    for value, code in ((7, 1), (None, 0)):
        done = run("-", "--model", "cas-register", "--picture", str(picture), text=history(value))
        assert (done.returncode, done.stderr) == (code, "")
        escaped = name.encode("unicode_escape").decode()
        assert f"process {escaped}" in done.stdout
        assert "\x1b" not in done.stdout + picture.read_text()
    twice = run("-", "--model", "cas-register", text=history(7).replace('"ok"', '"invoke"'))
    assert twice.returncode == 2
    assert "\x1b" not in twice.stderr
    assert len(twice.stderr.splitlines()) == 1


def test_json_has_no_numbers_that_are_none() -> None:
    log = GOOD.replace(":write 1", ":write ##NaN").replace(":ok :read 1", ":ok :read ##Inf")
    done = run("-", "--model", "cas-register", "--json", text=log)
    assert done.returncode == 1

    def refuse(name: str) -> None:
        raise AssertionError(name)

    answer = json.loads(done.stdout, parse_constant=refuse)
    assert answer["failed"]["value"] == "inf"
    assert answer["cells"][0]["possible_values"] == ["nan"]


def test_a_wrong_option_is_an_object_too() -> None:
    for arguments in (("--budget", "nan"), ("--model", "none"), ("--no-such-option",)):
        done = run("-", "--model", "cas-register", "--json", *arguments, text=GOOD)
        assert done.returncode == 2
        assert list(json.loads(done.stdout)) == ["error"]
        assert done.stderr
        assert run("-", "--model", "cas-register", *arguments, text=GOOD).stdout == ""


def test_values_that_make_no_sense_together_are_told_with_file_and_line() -> None:
    names = ("process", "type", "f", "key", "value")
    events = (
        (0, "invoke", "put", "k", 5),
        (0, "ok", "put", "k", 5),
        (0, "invoke", "append", "k", "x"),
        (0, "ok", "append", "k", "x"),
    )
    text = "\n".join(json.dumps(dict(zip(names, event, strict=True))) for event in events)
    done = run("-", "--model", "kv", text=text)
    assert done.returncode == 2
    assert "<stdin>: line 1: a key with appended str values also holds 5" in done.stderr


def test_a_picture_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    done = run("-", "--model", "cas-register", "--picture", str(tmp_path / "no" / "where.html"), text=GOOD)
    assert done.returncode == 2
    assert "cannot write the picture" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupt_is_no_verdict_and_no_traceback() -> None:
    with subprocess.Popen(
        [*COMMAND, "-", "--model", "cas-register"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        # More than a pipe holds: when all is written, the process has begun to read.
        process.stdin.write("INFO  jepsen.core - nothing of note\n" * 10_000 + hard_log())
        process.stdin.close()
        process.send_signal(signal.SIGINT)  # while it reads or searches: the same must come of it
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == "check_history: interrupted"
