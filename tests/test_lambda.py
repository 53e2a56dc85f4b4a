"""AWS Lambda: the real runtime, the real datadog-lambda and the real Chalice, frozen between invocations."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from catalogue_names import (
    CATALOGUE,
    LEVEL,
    PERCENT_NAMES,
    PREFIX,
    TIMELESS_NAMES,
    assert_complete,
    each_level,
    is_complete,
    of_default_level,
)
from datadog_receiver import DatadogReceiver, Forwarded, arrived, forwarded, rejected
from lambda_runtime import FUNCTIONS, LAMBDA, Answer, Environment, environment, init_error
from launching import wheel
from ports import DISCARD_URL
from receiving import complete_flushes, unnamed
from serving import TIMEOUT, need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from conftest import RunProgram
    from receiving import Flushes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="AWS Lambda is Linux")

OURS = "runtime_metrics.aws_lambda.handler"
THEIRS = "datadog_lambda.handler.handler"
HANDLER = "DD_RUNTIME_METRICS_LAMBDA_HANDLER"
# Seconds, more than an interval, so that a thread with a schedule would tick at the thaw.
GAP = 11.0

# An invocation sends the same metrics however short it is.
ANY_LENGTH = {"DD_RUNTIME_METRICS_EXCLUDE": ",".join(PERCENT_NAMES)}


def together(*cases: Callable[[], Any]) -> list[Any]:
    """Runs cases at the same time: most of them wait."""
    with ThreadPoolExecutor(len(cases)) as pool:
        return [running.result() for running in [pool.submit(case) for case in cases]]


def served(
    handler: str,
    folder: Path,
    events: list[Any],
    variables: dict[str, str] | None = None,
    *,
    frozen: float = 0,
    **options: Any,
) -> tuple[list[Answer], Environment]:
    """Has events served; returns the answers and the environment. Nothing may be sent outside of the invocations."""
    with environment(handler, folder, variables, **options) as running:
        running.init()
        answers = [running.invoke(event, frozen=frozen) for event in events]
        assert running.stray() == []
    return answers, running


def plain(name: str) -> dict[str, str]:
    """The variable by which our handler wraps a plain one."""
    return {HANDLER: f"plain.{name}"}


# Freezes


@each_level
def test_each_invocation_sends_one_set_between_its_event_and_its_answer(tmp_path: Path) -> None:
    variables = plain("echo") | {"DD_RUNTIME_METRICS_INTERVAL": "0.1"}
    with environment(OURS, tmp_path, variables) as running:
        running.init()
        for number in range(4):
            # Many intervals of a thread with a schedule would pass, during the freeze and after the thaw.
            answer = running.invoke(number, frozen=0.3, thawed=0.2)
            assert_complete(answer.flush.values)
            assert answer.flush.type == "d"
            assert max(map(len, answer.datagrams)) <= 1432
            assert answer.flush.tag("cold_start") == ("false" if number else "true")
            # The runtime has a second thread for a moment, which looks up a name. Ours would appear by their names.
            assert answer.flush["thread_count"] <= 2
            assert set(running.threads()) == {"python"}
        running.freeze()
        running.kill()
        assert running.timeline.count("freeze") == 5
        assert running.stray() == []


def test_with_a_thread_datagrams_leave_outside_of_invocations(tmp_path: Path) -> None:
    variables = {"DD_RUNTIME_METRICS_INTERVAL": "0.1", "DD_RUNTIME_METRICS_LAMBDA_THREAD": "true"}
    with environment(OURS, tmp_path, variables | plain("echo")) as running:
        running.init()
        running.invoke(frozen=0.3, thawed=0.5)
        assert {"rtm-sampler", "rtm-reader"} <= set(running.threads())
        assert len(running.stray()) > 2


@pytest.mark.measures
def test_values_cover_the_invocation_alone_even_after_a_freeze(tmp_path: Path) -> None:
    def around_a_freeze(name: str, event: object, later: float = 0) -> list[Answer]:
        # With a higher priority than anything else on this machine, where that is permitted.
        within = ("sh", "-c", 'chrt --fifo --pid 1 $$; exec "$@"', "sh")
        with environment(OURS, tmp_path / f"{name}-{later}", plain(name), within=within) as running:
            # The first event comes after a freeze as well: its environment was initialised in advance.
            return [running.invoke(event, frozen=GAP + later), running.invoke(event)]

    def restored_from_an_old_image() -> Answer:
        with environment(
            "stored.handler", tmp_path / "stored", initialization="snap-start", stored_for=GAP
        ) as running:
            return running.invoke()

    def in_chalice(name: str, frozen: float, **options: Any) -> Answer:
        # Chalice wraps its handler at each event, and not before.
        with environment("chalice_app.pure", tmp_path / name, **options) as running:
            return running.invoke({}, frozen=frozen)

    need("chalice", among=LAMBDA)
    *spins, dozes, restored, chalice, restored_chalice = together(
        # One after the other, because each needs a core for itself.
        *(partial(around_a_freeze, "spin", 0.2, later) for later in (1, 2, 3, 4)),
        partial(around_a_freeze, "doze", 0.3),
        restored_from_an_old_image,
        partial(in_chalice, "chalice", GAP),
        partial(in_chalice, "stored chalice", 0, initialization="snap-start", stored_for=GAP),
    )
    for answer in [answer for around in spins for answer in around]:
        assert answer.flush["cpu.time.user"] == pytest.approx(0.2, abs=0.03)
        # About 100, less what other programs took, which the handler has measured too. If it contained the freeze, it
        # would be 2.
        own = 100 * answer.body["cpu"] / answer.body["seconds"]
        assert answer.flush["cpu.percent"] == pytest.approx(own, rel=0.1)
    # And in at least one round, other programs took little.
    assert max(first.flush["cpu.percent"] for first, _ in spins) == pytest.approx(100, abs=10)
    for answer in dozes:
        assert answer.flush["cpu.time.user"] < 0.02
        assert answer.flush["cpu.percent"] < 5
    for first, second in (*spins, dozes):
        assert first.flush.tags[-2:] == ("cold_start:false", "proactive_initialization:true")
        assert second.flush.tags[-1] == "cold_start:false"
    assert chalice.flush.tags[-2:] == ("cold_start:false", "proactive_initialization:true")
    for answer in (restored, restored_chalice):
        assert answer.flush.tags[-1] == "cold_start:true", "it is initialised when it is restored"


def test_an_invocation_that_is_killed_at_its_deadline_sends_nothing_and_the_next_is_clean(
    tmp_path: Path,
) -> None:
    with environment(OURS, tmp_path / "killed", plain("doze")) as running:
        running.invoke(0)
        running.invoke_until_killed(30, deadline=0.3)
        assert running.stray() == []
        assert len(complete_flushes(running.datagrams())) == 1
    (answer,), _ = served(OURS, tmp_path / "next", [0], plain("doze"))
    assert answer.flush.tag("cold_start") == "true"


# The answers of the handler

FAILURES = ["value", "system", "key"]

# The same handlers without us and with us.
PAIRS: dict[str, tuple[tuple[str, dict[str, str]], tuple[str, dict[str, str]], list[Any]]] = {
    "echo": (("plain.echo", {}), (OURS, plain("echo")), [{"a": 1}, None, "é"]),
    "fail": (("plain.fail", {}), (OURS, plain("fail")), FAILURES),
    "decorated": (("plain.fail", {}), ("decorated.fail", {}), FAILURES),
    "unprintable": (("plain.unprintable", {}), (OURS, plain("unprintable")), [1]),
    "coroutine": (("plain.wait", {}), (OURS, plain("wait")), [1, 2]),
    "generator": (("plain.stream", {}), (OURS, plain("stream")), [1, 2]),
    "fallback": (("plain.fail", {}), (OURS, {"DD_LAMBDA_HANDLER": "plain.fail"}), FAILURES),
    "within a package": (
        ("shop/orders/place.handler", {}),
        (OURS, {HANDLER: "shop/orders/place.handler"}),
        ["flat white"],
    ),
    "beneath theirs": (
        (THEIRS, {"DD_LAMBDA_HANDLER": "plain.fail"}),
        (THEIRS, {"DD_LAMBDA_HANDLER": OURS, **plain("fail")}),
        FAILURES,
    ),
    "around theirs": (
        (THEIRS, {"DD_LAMBDA_HANDLER": "plain.fail"}),
        (OURS, {"DD_LAMBDA_HANDLER": "plain.fail", HANDLER: THEIRS}),
        FAILURES,
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_answers_errors_and_stack_traces_are_those_of_the_handler(pair: str, tmp_path: Path) -> None:
    (bare, its_variables), (wrapped, our_variables), events = PAIRS[pair]
    (without, _), (ours, running) = together(
        lambda: served(bare, tmp_path / "bare", events, its_variables),
        lambda: served(wrapped, tmp_path / "ours", events, our_variables),
    )
    assert [(answer.kind, answer.body) for answer in ours] == [
        (answer.kind, answer.body) for answer in without
    ]
    assert len(ours) == len(events)
    assert_complete(*(answer.flush.values for answer in ours))
    assert [answer.datagrams for answer in without] == [()] * len(events)
    if events == FAILURES:
        assert all(len(answer.body["stackTrace"]) >= 2 for answer in ours), "there are frames to compare"
    assert "runtime_metrics" not in running.output()


def test_a_handler_that_ends_the_process_sends_its_set_first(tmp_path: Path) -> None:
    for handler, sets in (("decorated.leave", 1), ("plain.leave", 0)):
        with environment(handler, tmp_path / handler) as running:
            running.init()
            running.start_invocation(None)
            assert running.process.wait(TIMEOUT) == 3
            sent = running.datagrams()
        assert len(complete_flushes(sent)) == sets


# Time


@pytest.mark.measures
def test_little_time_is_added_whatever_the_receiver_does(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full, socket.socket(socket.AF_UNIX) as slow:
        full.bind(str(tmp_path / "full"))
        slow.bind(str(tmp_path / "slow"))
        # One connection for each round.
        slow.listen(5)

        def rounds(
            name: str, calls: int, variables: dict[str, str] | None = None
        ) -> tuple[list[list[float]], list[int]]:
            """The times of the calls of each round, sorted, and the number of packets dropped in each."""
            variables = {"CALLS": str(calls)} | (variables or {})
            bodies = []
            for number in range(5):
                with environment("timing.handler", tmp_path / f"{name}-{number}", variables) as running:
                    bodies.append(running.invoke().body)
            return [sorted(body["times"]) for body in bodies], [body["dropped"] for body in bodies]

        places = {
            "listener": partial(rounds, "listener", 500),
            "refused": partial(rounds, "refused", 500, {"DD_DOGSTATSD_URL": DISCARD_URL}),
            "queue": partial(rounds, "queue", 500, {"DD_DOGSTATSD_URL": f"unixgram://{tmp_path}/full"}),
            "stream": partial(rounds, "stream", 100, {"DD_DOGSTATSD_URL": f"unixstream://{tmp_path}/slow"}),
            "name": partial(rounds, "name", 500, {"DD_AGENT_HOST": "agent.invalid"}),
        }
        # What has the tightest limit is measured alone.
        measured = {"listener": places.pop("listener")()}
        measured |= dict(zip(places, together(*places.values()), strict=True))
    # The other rounds contain what else ran on this machine.
    times = {place: rounds for place, (rounds, _) in measured.items()}
    assert min(calls[len(calls) * 99 // 100] for calls in times["listener"]) < 0.002
    for place, calls_of_rounds in times.items():
        assert min(calls[-1] for calls in calls_of_rounds) < 0.05, place
    dropped = {place: counts for place, (_, counts) in measured.items()}
    assert dropped["listener"] == [0] * 5
    # An unread queue accepts only the first few of a thousand datagrams.
    assert min(dropped["queue"]) > 400
    assert min(dropped["refused"]) > 0
    # A stream was waited for, but not for long.
    assert min(calls[-1] for calls in times["stream"]) > 0.01


# Beside other wrappers


def test_an_invocation_wrapped_twice_sends_one_set(tmp_path: Path) -> None:
    def sets(handler: str, name: str, variables: dict[str, str] | None = None) -> list[bool]:
        answers, _ = served(handler, tmp_path / name, ["a", "b"], variables)
        # A name that comes twice fails in there.
        return [is_complete(answer.flush.values) for answer in answers]

    once = [True] * 2
    assert (
        together(
            lambda: sets("decorated.twice", "twice"),
            lambda: sets("decorated.route", "routed"),
            lambda: sets(OURS, "redirected", {HANDLER: "decorated.echo"}),
            lambda: sets(THEIRS, "theirs", {"DD_LAMBDA_HANDLER": OURS, HANDLER: "decorated.twice"}),
        )
        == [once] * 4
    )


def test_a_retried_request_sends_another_set(tmp_path: Path) -> None:
    with environment("decorated.fail", tmp_path) as running:
        tries = [running.invoke("value", request="same") for _ in range(3)]
    assert_complete(*(answer.flush.values for answer in tries))


def test_inside_datadog_lambda_the_id_and_the_cold_start_are_those_of_the_span(tmp_path: Path) -> None:
    need("datadog_lambda", among=LAMBDA)
    variables = {"DD_LAMBDA_HANDLER": OURS, **plain("echo")}
    answers, running = served(THEIRS, tmp_path, [1, 2], variables)
    traces = [json.loads(line)["traces"] for line in running.output().splitlines() if '"traces"' in line]
    spans = [
        span["meta"]
        for chunks in traces
        for chunk in chunks
        for span in chunk
        if span["name"] == "aws.lambda"
    ]
    assert len(spans) == 2
    for answer, span in zip(answers, spans, strict=True):
        assert answer.flush.tag("runtime-id") == span["runtime-id"]
        assert answer.flush.tag("cold_start") == span["cold_start"]


HTTP: dict[str, Any] = {
    "httpMethod": "GET",
    "headers": {},
    "multiValueHeaders": {},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "pathParameters": None,
    "stageVariables": None,
    "body": None,
    "isBase64Encoded": False,
}


def request(path: str) -> dict[str, Any]:
    """A request as API Gateway passes it on."""
    context = {"httpMethod": "GET", "resourcePath": path, "identity": {"sourceIp": "192.0.2.1"}}
    return HTTP | {"resource": path, "path": path, "requestContext": context}


CHALICE: dict[str, list[Any]] = {
    "app": [request("/"), request("/fail"), request("/nowhere")],
    "pure": [{"a": 1}],
    "orders": [{"Records": [{"body": "flat white", "receiptHandle": "1"}]}],
}


@pytest.mark.parametrize("theirs", [False, True], ids=["alone", "beneath theirs"])
def test_each_event_of_chalice_sends_one_set_and_its_answer_is_unchanged(
    tmp_path: Path, theirs: bool
) -> None:
    need("chalice", among=LAMBDA)

    def answers(application: str, handler: str) -> list[Answer]:
        path = f"{application}.{handler}"
        variables = {"DD_LAMBDA_HANDLER": path} if theirs else {}
        return served(THEIRS if theirs else path, tmp_path / path, CHALICE[handler], variables)[0]

    for handler, events in CHALICE.items():
        without, ours = together(
            partial(answers, "chalice_bare", handler), partial(answers, "chalice_app", handler)
        )
        assert [answer.body for answer in ours] == [answer.body for answer in without]
        assert [answer.datagrams for answer in without] == [()] * len(events)
        # A path without a route is rejected before any middleware runs.
        routed = [answer for answer in ours if not str(answer.body).count("MissingAuthentication")]
        unrouted = [answer for answer in ours if answer not in routed]
        assert len(unrouted) <= 1
        assert_complete(*(answer.flush.values for answer in routed))


# Errors of initialisation


def test_a_missing_handler_is_reported_as_without_us(tmp_path: Path) -> None:
    (tmp_path / "misspelt.py").write_text("def handler(event, context)\n")
    cases = {
        "no_such.handler": "No module named 'no_such'",
        "broken.handler": "No module named 'no_such_module'",
        "misspelt.handler": "Syntax error in module",
        "plain.nothing": "Handler ",
    }

    def errors(path: str) -> list[dict[str, Any]]:
        variables = {"PYTHONPATH": str(tmp_path)}
        ours = variables | {HANDLER: path}
        return [
            init_error(path, tmp_path / f"bare-{path}", variables),
            init_error(OURS, tmp_path / f"ours-{path}", ours),
            # A container image with another entry point.
            init_error(OURS, tmp_path / f"argument-{path}", ours | {"_HANDLER": ""}),
        ]

    reported = together(*(partial(errors, path) for path in cases))
    for (path, text), errors_of_one in zip(cases.items(), reported, strict=True):
        assert len({error["errorType"] for error in errors_of_one}) == 1, path
        assert all(text in error["errorMessage"] for error in errors_of_one)
    assert {without["errorType"] for without, *_ in reported} == {
        "Runtime.ImportModuleError",
        "Runtime.UserCodeSyntaxError",
        "Runtime.HandlerNotFound",
    }
    # The runtime's message names our handler only.
    output = (tmp_path / "ours-plain.nothing" / "stdout").read_text()
    assert "DD_RUNTIME_METRICS_LAMBDA_HANDLER: there is no nothing in the module plain" in output


def test_looking_up_a_handler_raises_what_its_module_raises(run_program: RunProgram, tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text("raise AttributeError('of its own')\n")
    program = """
    from runtime_metrics import aws_lambda
    try:
        aws_lambda.handler
    except AttributeError as error:
        print(error)
    """
    variables: dict[str, Any] = {"PYTHONPATH": str(tmp_path), HANDLER: "raising.handler"}
    assert run_program(program, **variables) == "of its own\n"


def test_other_processes_of_a_function_do_not_import_its_handler(tmp_path: Path) -> None:
    program = "import sys, runtime_metrics.aws_lambda; print('plain' in sys.modules)"
    for handler, theirs in ((OURS, ""), (THEIRS, OURS)):
        variables = plain("run") | {"DD_LAMBDA_HANDLER": theirs}
        (answer,), _ = served(handler, tmp_path / handler, [program], variables)
        assert answer.body == "False\n"


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "set DD_RUNTIME_METRICS_LAMBDA_HANDLER to the function's own handler"),
        ({"DD_LAMBDA_HANDLER": OURS, HANDLER: ""}, "set DD_RUNTIME_METRICS_LAMBDA_HANDLER"),
        ({HANDLER: OURS, "DD_LAMBDA_HANDLER": "plain.echo"}, f"{HANDLER}={OURS} names {OURS} itself"),
        ({HANDLER: OURS.replace(".", "/", 1)}, "itself"),
        ({HANDLER: "handler"}, f"{HANDLER}=handler: expected module.function"),
        ({"DD_LAMBDA_HANDLER": "plain."}, "DD_LAMBDA_HANDLER=plain.: expected module.function"),
    ],
    ids=["unset", "themselves", "ourselves", "ourselves with a slash", "no module", "no function"],
)
def test_a_variable_that_names_no_handler_is_an_error_that_names_the_variable(
    tmp_path: Path, variables: dict[str, str], text: str
) -> None:
    error = init_error(OURS, tmp_path, variables)
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert text in error["errorMessage"]


def test_inside_datadog_lambda_an_unset_variable_is_an_error_too(tmp_path: Path) -> None:
    error = init_error(THEIRS, tmp_path, {"DD_LAMBDA_HANDLER": OURS})
    assert "set DD_RUNTIME_METRICS_LAMBDA_HANDLER to the function's own handler" in error["errorMessage"]


# Destinations and tags


def test_the_extension_is_found_at_its_path(tmp_path: Path) -> None:
    """And it is not found in an empty /opt."""
    for command, sets in (("mkdir /opt/extensions && touch /opt/extensions/datadog-agent", 1), (":", 0)):
        within = (
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount -t tmpfs none /opt && {command} && exec "$@"',
            "sh",
        )
        with environment(
            OURS,
            tmp_path / str(sets),
            plain("descriptors") | {"DD_RUNTIME_METRICS_LAMBDA_EXTENSION": ""},
            within=within,
        ) as running:
            answers = [running.invoke(), running.invoke()]
            assert len(complete_flushes(running.datagrams())) == 2 * sets
            # Without the extension, no socket is opened for the second invocation.
            assert len(answers[1].body) - len(answers[0].body) == sets
            assert running.output().count("[WARNING]") == 1 - sets


def test_without_a_destination_one_warning_names_both_remedies(tmp_path: Path) -> None:
    answers, running = served("decorated.order", tmp_path, [1, 2, 3], extension=False)
    assert [answer.datagrams for answer in answers] == [()] * 3
    (warning,) = [line for line in running.output().splitlines() if "extension" in line.lower()]
    assert "add the extension's layer" in warning
    assert "DD_FLUSH_TO_LOG=true" in warning


def assert_each_twice(points: list[dict[str, Any]]) -> None:
    """Fails unless each name of the default level is there twice."""
    names = Counter(point["m"].removeprefix(PREFIX) for point in points)
    assert {name: names[name] for name in of_default_level(names)} == dict.fromkeys(TIMELESS_NAMES, 2)


def test_without_an_extension_metrics_go_to_the_log_if_the_variable_is_set(tmp_path: Path) -> None:
    began = int(time.time())
    answers, running = served(
        "decorated.order", tmp_path, [1, 2], {"DD_FLUSH_TO_LOG": "true"} | ANY_LENGTH, extension=False
    )
    assert [answer.datagrams for answer in answers] == [()] * 2
    points = [json.loads(line) for line in running.output().splitlines() if line.startswith("{")]
    assert all(sorted(point) == ["e", "m", "t", "v"] for point in points)
    sets = [point for point in points if point["m"].startswith(PREFIX)]
    assert len(points) == len(sets) + 2 * 3
    assert_each_twice(sets)
    assert all(began <= point["e"] <= time.time() for point in sets)
    assert all(isinstance(point["v"], (int, float)) for point in points)
    order, seconds, datetime, *_ = points
    function = [
        "functionname:coffee",
        "region:eu-central-1",
        "account_id:123456789012",
        "resource:coffee",
        "executedversion:LATEST",
        "memorysize:128",
    ]
    assert (order["m"], order["v"]) == ("coffee_house.order_value", 12.45)
    assert order["t"] == ["service:coffee", "product:latte", "order:online", *function]
    assert seconds["e"] == pytest.approx(time.time() - 3600, abs=30)
    assert datetime["t"][1] == "a_b:c_d"
    assert "WARNING" not in running.output().replace("[WARNING]", "", 2), (
        "rejected metrics give the only warnings"
    )


def test_the_lines_of_an_invocation_are_written_at_once(run_program: RunProgram) -> None:
    program = """
    import sys
    from runtime_metrics.aws_lambda import instrument, lambda_metric

    class Log:
        writes = []
        def write(self, text):
            self.writes.append(text)
        def flush(self):
            self.writes.append("")

    @instrument
    def handler(event, context):
        lambda_metric("orders", 1)
    stdout, sys.stdout = sys.stdout, Log()
    handler(1, None)
    sys.stdout = None
    handler(2, None)
    sys.stdout = stdout
    print([text.count("\\n") for text in Log.writes])
    print(Log.writes[2], end="")
    """
    output = run_program(
        program,
        AWS_LAMBDA_FUNCTION_NAME="coffee",
        DD_FLUSH_TO_LOG="true",
        DD_RUNTIME_METRICS_EXCLUDE=",".join(PERCENT_NAMES),
        DD_RUNTIME_METRICS_LAMBDA_EXTENSION="/nowhere/datadog-agent",
    )
    counts, *lines = output.splitlines()
    assert counts == f"[1, 0, {len(lines)}, 0]"
    names = {json.loads(line)["m"].removeprefix(PREFIX) for line in lines}
    assert of_default_level(names) == set(TIMELESS_NAMES)


def test_what_a_function_flushes_itself_is_written_to_its_log(run_program: RunProgram) -> None:
    program = """
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument
    handler = instrument(lambda event, context: RuntimeMetrics.flush())
    assert handler(1, None)
    print("returned")
    """
    began = int(time.time())
    flushed, _, rest = run_program(
        program,
        AWS_LAMBDA_FUNCTION_NAME="coffee",
        DD_FLUSH_TO_LOG="true",
        DD_RUNTIME_METRICS_EXCLUDE=",".join(PERCENT_NAMES),
        DD_RUNTIME_METRICS_LAMBDA_EXTENSION="/nowhere/datadog-agent",
    ).partition("returned")
    assert rest == "\n"
    points = [json.loads(line) for line in flushed.splitlines()]
    assert_each_twice(points)
    assert all(began <= point["e"] <= time.time() for point in points)


def test_a_log_of_any_encoding_takes_the_lines(run_program: RunProgram) -> None:
    program = """
    from runtime_metrics.aws_lambda import lambda_metric
    lambda_metric("orders", 1, tags=["café:日本", "\U00020000"])
    """
    output = run_program(
        program,
        AWS_LAMBDA_FUNCTION_NAME="coffee",
        DD_FLUSH_TO_LOG="true",
        DD_RUNTIME_METRICS_LAMBDA_EXTENSION="/nowhere/datadog-agent",
        PYTHONIOENCODING="ascii",
    )
    assert json.loads(output)["t"][1:3] == ["café:日本", "\U00020000"]


def test_without_a_destination_the_status_has_no_address(run_program: RunProgram) -> None:
    program = """
    import logging
    from runtime_metrics import RuntimeMetrics
    logging.disable()
    RuntimeMetrics.enable()
    status = RuntimeMetrics.status()
    print([status[key] for key in ("state", "address", "chosen_by", "peer", "transport")])
    """
    for flushes_to_log in ("true", "false"):
        output = run_program(
            program,
            AWS_LAMBDA_FUNCTION_NAME="coffee",
            DD_FLUSH_TO_LOG=flushes_to_log,
            DD_RUNTIME_METRICS_LAMBDA_EXTENSION="/nowhere/datadog-agent",
        )
        assert output == "['untried', None, None, None, None]\n"


def test_a_child_forked_by_an_invocation_has_the_tags_of_the_function(
    run_program: RunProgram, flushes: Flushes
) -> None:
    program = """
    import os
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument

    class Context:
        aws_request_id = "1"
        invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:coffee"
        function_version = "1"
        memory_limit_in_mb = "128"

    @instrument
    def handler(event, context):
        child = os.fork()
        if child == 0:
            os._exit(0 if RuntimeMetrics.flush() else 1)
        assert os.waitpid(child, 0)[1] == 0
    handler(1, Context())
    """
    run_program(program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=flushes.url)
    child, parent = flushes.rest()
    keys = ("functionname", "region", "account_id", "resource", "executedversion", "memorysize", "cold_start")
    assert [child.tag(key) for key in keys] == [parent.tag(key) for key in keys]
    assert child.tag("region") == "eu-central-1"
    assert child.tag("runtime-id") != parent.tag("runtime-id")


def test_lines_for_a_configured_address_carry_the_tags_that_the_extension_would_add(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(tmp_path / "agent"))
        url = f"unix://{tmp_path}/agent"
        answers, _ = served("decorated.echo", tmp_path / "function", [1], {"DD_DOGSTATSD_URL": url})
        assert answers[0].datagrams == ()
        tags = agent.recv(65536).decode().splitlines()[0].partition("|#")[2].split(",")
    assert {
        "cold_start:true",
        "functionname:coffee",
        "region:eu-central-1",
        "account_id:123456789012",
        "memorysize:128",
    } <= set(tags)


def test_tags_that_the_extension_adds_are_not_sent_and_not_contradicted(tmp_path: Path) -> None:
    agreed = {"DD_SERVICE": "Shop", "DD_ENV": "prod", "DD_VERSION": "1"}
    otherwise = agreed | {"DD_SERVICE": "shop", "CLAIM": "other"}
    (ours,), (others,) = together(
        lambda: served("claimed.handler", tmp_path / "agreed", [1], agreed)[0],
        lambda: served("claimed.handler", tmp_path / "otherwise", [1], otherwise)[0],
    )
    assert ours.flush.tags[:3] == ("service:Shop", "env:prod", "version:1")
    # The extension would add its service beside ours; the other tags that it adds equal ours.
    assert others.flush.tags[:3] == ("env:prod", "version:1", "lang:python")
    for answer in (ours, others):
        assert not re.search("functionname|region|account_id|memorysize", ",".join(answer.flush.tags))


def most_own_tags(level: str) -> int:
    """The most tags that a metric has of its own at a level."""
    of_runtime = [metric for metric in CATALOGUE if metric.name.startswith(PREFIX)]
    return max(len(metric.tags) for metric in of_runtime if metric.level in ("default", level))


@each_level
def test_no_line_has_more_tags_than_the_extension_takes(tmp_path: Path, level: str) -> None:
    tags = ",".join(f"tag{number}:x" for number in range(150))
    answers, running = served(OURS, tmp_path, [1, 2], plain("echo") | {"DD_TAGS": tags})
    for answer in answers:
        # There is room for those that a metric has of its own.
        assert len(answer.flush.tags) == 100 - most_own_tags(level)
        assert answer.flush.tags[-1].startswith("cold_start:")
    assert running.output().count("user tags are not sent") == 1


def test_datadogs_receiver_accepts_every_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(tmp_path / "agent"))
        elsewhere = {"DD_DOGSTATSD_URL": f"unix://{tmp_path}/agent", "DD_SERVICE": "elsewhere"}
        many = {"DD_TAGS": ",".join(f"tag{number}:x" for number in range(150)), "DD_SERVICE": "many"}
        gauges = {"DD_RUNTIME_METRICS_WIRE_TYPE": "gauge", "DD_SERVICE": "gauges"}
        # Of the others that an invocation sends, none has several lines.
        each_once = {"DD_RUNTIME_METRICS_EXCLUDE": ",".join([*PERCENT_NAMES, "exceptions.uncaught"])}

        def sent(name: str, handler: str, variables: dict[str, str], frozen: float = 0) -> list[bytes]:
            (answer,), _ = served(handler, tmp_path / name, [1], each_once | variables, frozen=frozen)
            return list(answer.datagrams)

        sets = together(
            partial(sent, "order", "decorated.order", {}),
            partial(sent, "early", "decorated.echo", {"DD_SERVICE": "early"}, GAP),
            partial(sent, "elsewhere", "decorated.echo", elsewhere),
            partial(sent, "many", "decorated.echo", many),
            partial(sent, "gauges", "decorated.echo", gauges),
        )
        assert sets[2] == []
        agent.settimeout(TIMEOUT)
        names = re.findall(r"^[^:]+", b"".join(sets[1]).decode(), re.MULTILINE)
        assert of_default_level(name.removeprefix(PREFIX) for name in names) == set(TIMELESS_NAMES)
        while b"".join(sets[2]).count(b"\n") < len(names):
            sets[2].append(agent.recv(65536))
    datagrams = [datagram.decode() for sent in sets for datagram in sent]
    lines = [line for datagram in datagrams for line in datagram.splitlines()]
    assert len(lines) == 5 * len(names) + 3
    receiver = DatadogReceiver(tmp_path)
    try:
        for datagram in datagrams:
            receiver.send(datagram)
        receiver.send("end.of.distributions:1|d\nend.of.gauges:1|g\n")
        receiver.until('Sketch { metric: "end.of.distributions"', 'Metric { metric: "end.of.gauges"')
        origin = {"origin:azurespringapp", "dd.origin:azurespringapp"}
        tags = {}
        for service in ("coffee", "early", "elsewhere", "many", "gauges"):
            taken = arrived(receiver.log, service)
            assert sorted(line.name for line in taken) == sorted(names)
            assert {line.type for line in taken} == {"g" if service == "gauges" else "d"}
            assert forwarded(receiver.log, service) == {
                line.name: Forwarded(float(line.value), line.type, line.tags | origin) for line in taken
            }
            tags[service] = taken[0].tags
        assert "proactive_initialization:true" in tags["early"]
        assert {"functionname:coffee", "executedversion:LATEST", "memorysize:128"} <= tags["elsewhere"]
        assert len(tags["many"]) == 100 - most_own_tags(LEVEL)
        # The receiver aggregates in buckets of ten seconds.
        sketch = r'metric: "coffee_house\.(\w+)"[^{]*dogsketches: \[Dogsketch \{ ts: (\d+), cnt: 1,'
        stamped = dict(re.findall(sketch, receiver.log))
        sent_times = dict(re.findall(r"coffee_house\.(\w+):[^T\n]*\|T(\d+)", "\n".join(lines)))
        assert {name: int(at) // 10 * 10 for name, at in sent_times.items()} == {
            name: int(at) for name, at in stamped.items() if name != "order_value"
        }
        assert sent_times.keys() == {"seconds", "datetime"}
        assert rejected(receiver.log) == []
        assert all(not receiver.rejects(line) for line in lines[: len(names) + 3])
    finally:
        receiver.stop()


def test_a_custom_metric_goes_through_the_same_socket(tmp_path: Path) -> None:
    (answer,), running = served("decorated.order", tmp_path, [1])
    own = [datagram for datagram in answer.datagrams if datagram.startswith(b"coffee_house")]
    assert own[0] == b"coffee_house.order_value:12.45|d|#product:latte,order:online\n"
    assert re.fullmatch(rb"coffee_house\.seconds:1\|d\|T\d+\n", own[1])
    assert re.fullmatch(rb"coffee_house\.datetime:2\|d\|#a_b:c_d\|T\d+\n", own[2])
    assert len(own) == 3
    output = running.output()
    assert output.count("its timestamp is older than 4 hours") == 1
    assert output.count("its value is not a finite number") == 1


def test_a_time_may_be_in_milliseconds_microseconds_or_nanoseconds(tmp_path: Path) -> None:
    nanoseconds = time.time_ns() - 60 * 10**9
    times = [nanoseconds // 10**digits for digits in (9, 6, 3, 0)]
    answers, _ = served("decorated.dated", tmp_path, times)
    own = [datagram for answer in answers for datagram in answer.datagrams if datagram.startswith(b"orders")]
    assert own == [b"orders:1|d|T%d\n" % times[0]] * 4


@pytest.mark.parametrize("wire_type", ["distribution", "gauge"])
def test_lines_are_of_types_that_the_extension_takes(
    tmp_path: Path, flushes: Flushes, run_program: RunProgram, wire_type: str
) -> None:
    variables = {"DD_RUNTIME_METRICS_WIRE_TYPE": wire_type, "DD_RUNTIME_METRICS_CLIENT_TELEMETRY": "true"}
    answers, _ = served(OURS, tmp_path, [1, 2], variables | plain("echo"))
    for answer in answers:
        assert types(answer.datagrams) == {wire_type[0]}
    # Outside of AWS Lambda, there are other types as well.
    program = "from runtime_metrics import RuntimeMetrics; RuntimeMetrics.enable(); RuntimeMetrics.flush()"
    elsewhere: dict[str, Any] = variables | {"DD_DOGSTATSD_URL": flushes.url}
    run_program(program, **elsewhere)
    assert types(flushes.datagrams()) == {wire_type[0], "c"}


def types(datagrams: Iterable[bytes]) -> set[str]:
    """The types of all lines."""
    lines = [line for datagram in datagrams for line in datagram.decode().splitlines()]
    return {line.split("|")[1] for line in lines}


# Snapshots, managed instances, restricted systems


def test_a_function_starts_anew_after_each_restore_of_its_snapshot(tmp_path: Path) -> None:
    with environment("stored.handler", tmp_path, initialization="snap-start") as running:
        answers = [running.invoke(), running.invoke()]
        events = [event for event in running.timeline if event.what in ("restore", "datagram", "invoke")]
    # Before the restore, only the explicit flush of the program has been sent.
    restored = [event.what for event in events].index("restore")
    assert {event.what for event in events[:restored]} == {"datagram"}
    (before,) = complete_flushes(event.body for event in events[:restored])
    ids = {answer.flush.tag("runtime-id") for answer in answers}
    assert len(ids) == 1
    assert before.tag("runtime-id") not in ids
    sent = [event.body for event in events[restored:] if event.what == "datagram"]
    assert len(complete_flushes(sent)) == len(answers)
    assert answers[0].body["at the snapshot"] == []
    assert [answer.flush.tag("cold_start") for answer in answers] == ["true", "false"]


def test_the_thread_stops_for_a_snapshot_and_starts_again_after_a_restore(tmp_path: Path) -> None:
    variables = {"DD_RUNTIME_METRICS_INTERVAL": "0.2", "DD_RUNTIME_METRICS_LAMBDA_THREAD": "true"}
    with environment("stored.handler", tmp_path, variables, initialization="snap-start") as running:
        assert running.invoke().body["at the snapshot"] == []
        happened = [event.what for event in running.timeline]
        restored = happened.index("restore")
        assert running.timeline.until(lambda: len(running.timeline) > len(happened) + 4)
        assert {"rtm-sampler", "rtm-reader"} <= set(running.threads())
        sent = [event.body for event in running.timeline if event.what == "datagram"]
        before = happened[:restored].count("datagram")
    ids = [
        set(re.findall(rb"runtime-id:([0-9a-f]+)", b"".join(part))) for part in (sent[:before], sent[before:])
    ]
    assert [len(part) for part in ids] == [1, 1]
    assert ids[0].isdisjoint(ids[1])


def test_a_restored_process_reads_what_its_settings_say_then(tmp_path: Path) -> None:
    excluded = {"DD_RUNTIME_METRICS_EXCLUDE": "runtime.python.gc.count.*"}
    with environment("stored.handler", tmp_path, excluded, initialization="snap-start") as running:
        after = running.invoke().flush.values
        before = next(event for event in running.timeline if event.what == "datagram")
    assert b"gc.count" not in before.body
    assert is_complete(after)


def test_managed_instances_report_as_a_forking_server_does(tmp_path: Path) -> None:
    with environment(
        OURS,
        tmp_path,
        plain("echo") | {"AWS_LAMBDA_MAX_CONCURRENCY": "2", "DD_RUNTIME_METRICS_INTERVAL": "0.2"},
        initialization="lambda-managed-instances",
    ) as running:

        def ids() -> set[bytes]:
            sent = b"".join(event.body for event in running.timeline if event.what == "datagram")
            return set(re.findall(rb"runtime-id:([0-9a-f]+)", sent))

        assert running.timeline.until(lambda: len(ids()) >= 2), running.output()
        assert running.timeline.count("next") == 2
        assert b"cold_start" not in running.datagrams()[0]


@pytest.mark.parametrize(
    ("command", "missing"),
    [("mount -t tmpfs none /proc", {"mem.rss", "thread_count"}), ("mount -o remount,bind,ro /proc", set())],
    ids=["absent", "read-only"],
)
def test_with_a_restricted_proc_only_what_comes_from_there_is_missing(
    tmp_path: Path, command: str, missing: set[str]
) -> None:
    within = ("unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh")
    (answer,), _ = served(OURS, tmp_path, [1], plain("echo"), within=within)
    assert set(TIMELESS_NAMES) - answer.flush.values.keys() == missing


# The package


@pytest.mark.measures
def test_the_package_in_a_function_s_folder_is_small_and_imported_in_ten_milliseconds(tmp_path: Path) -> None:
    folder = tmp_path / "function"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]
    subprocess.run([sys.executable, *install, folder, wheel()], check=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    (folder / "function.py").write_text((FUNCTIONS / "plain.py").read_text())
    program = (
        "import os, sys, time; before = set(sys.modules); began = time.perf_counter()\n"
        "from runtime_metrics.aws_lambda import instrument\n"
        "instrument(lambda event, context: None)\n"
        "print(time.perf_counter() - began, *sorted(set(sys.modules) - before))"
    )

    def init() -> tuple[float, set[str]]:
        seconds, *modules = subprocess.run(
            [sys.executable, "-S", "-c", program],
            cwd=folder,
            env={"AWS_LAMBDA_FUNCTION_NAME": "coffee", "DD_RUNTIME_METRICS_LAMBDA_EXTENSION": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        return float(seconds), set(modules)

    init()
    rounds = [init() for _ in range(5)]
    assert statistics.median(seconds for seconds, _ in rounds) < 0.01
    ours = {"runtime_metrics"} | {
        f"runtime_metrics.{name}" for name in ("_core", "automatic", "aws_lambda", "messages")
    }
    small = {"__future__", "atexit", "gc"}
    assert ours <= rounds[0][1] <= ours | small

    with environment(
        OURS, tmp_path / "run", {HANDLER: "function.echo"}, functions=folder, options=("-W", "error")
    ) as running:
        assert_complete(running.invoke().flush.values)


# The decorator and the custom metric, without a runtime


def test_a_decorated_handler_behaves_like_the_original(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    import asyncio, functools, inspect, os, weakref
    os.environ["AWS_LAMBDA_FUNCTION_NAME"] = "coffee"
    from runtime_metrics.aws_lambda import instrument

    def handler(event, context: object = None) -> int:
        "Says it."
        return event
    handler.colour = "red"
    wrapped = instrument(handler)
    for name in functools.WRAPPER_ASSIGNMENTS:
        assert getattr(wrapped, name) == getattr(handler, name), name
    assert wrapped.__wrapped__ is handler and inspect.unwrap(wrapped) is handler
    assert inspect.signature(wrapped) == inspect.signature(handler)
    assert wrapped.colour == "red" and not hasattr(wrapped, "other")
    wrapped.shape = "round"
    assert wrapped.shape == handler.shape == "round"
    del wrapped.shape
    assert not hasattr(handler, "shape")
    assert weakref.ref(wrapped)() is wrapped and callable(wrapped)
    assert "handler" in repr(wrapped)
    assert wrapped(1) == 1 and wrapped(event=2) == 2 and wrapped(3, context=None) == 3

    class Callable:
        def __call__(self, event, context):
            return (self, event)
        @instrument
        def method(self, event, context):
            return (self, event)
    one = Callable()
    assert instrument(one)(1, None) == (one, 1) == one.method(1, None)
    assert Callable.method(one, 1, None) == (one, 1)
    async def coroutine(event, context):
        return event
    def generator(event, context):
        yield event
    for made in (handler, coroutine, generator, one, print, Callable):
        for question in (inspect.isfunction, inspect.iscoroutinefunction, inspect.isgeneratorfunction):
            assert question(instrument(made)) == question(made)
        assert isinstance(instrument(made), type(made))
    assert inspect.iscoroutine(pending := instrument(coroutine)(4, None)) and asyncio.run(pending) == 4
    assert inspect.isgenerator(stream := instrument(generator)(5, None)) and list(stream) == [5]
    try:
        instrument("handler")
    except TypeError as error:
        print(error)
    """
    output = run_program(program, DD_DOGSTATSD_URL=flushes.url)
    assert output == "handler='handler': expected something that can be called\n"


def test_a_method_as_handler_is_bound_as_without_us_and_each_request_sends_one_set(
    run_program: RunProgram, flushes: Flushes
) -> None:
    program = """
    from runtime_metrics.aws_lambda import instrument

    class Context:
        invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:tea"
        def __init__(self, number):
            self.aws_request_id = f"request-{number}"
    class Slotted:
        __slots__ = ("aws_request_id",)
        invoked_function_arn = Context.invoked_function_arn
        __init__ = Context.__init__
    class Callable:
        def __call__(self, event, context):
            return event
    class Shop:
        called = instrument(Callable())
        @instrument
        @staticmethod
        def static(event, context):
            return event
        @instrument
        def method(self, event, context):
            assert type(self) is Shop
            return event
        twice = instrument(method)
    shop = Shop()
    assert shop.called is Shop.called and shop.method.__self__ is shop
    number = 0
    for handler in (shop.called, Shop.called, shop.static, Shop.static, shop.method, shop.twice):
        for kind in (Context, Slotted):
            for tries in (1, 2):
                context = kind(number := number + 1)
                if tries == 1:
                    calls = lambda: handler(number, context)
                else:
                    calls = lambda: handler(number, context=context)
                # A second call belongs to the same invocation.
                assert [calls(), calls()] == [number, number]
    print(number)
    """
    output = run_program(program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=flushes.url)
    sent = flushes.rest()
    assert len(sent) == int(output)
    assert_complete(*(flush.values for flush in sent))
    assert [flush.tag("functionname") for flush in sent] == ["tea"] * 24


def test_a_decorated_handler_can_be_copied_and_pickled(run_program: RunProgram) -> None:
    program = """
    import copy, functools, inspect, pickle
    from runtime_metrics.aws_lambda import instrument

    @instrument
    def handler(event, context):
        return event
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(handler, protocol)) is handler
    assert copy.copy(handler) is copy.deepcopy(handler) is handler

    class Callable:
        def __init__(self):
            self.names = []
        def __call__(self, event, context):
            return event
    one = instrument(Callable())
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(other) is type(one) and other is not one and other(1, None) == 1
        assert other.names is not one.names
    assert copy.copy(one).__wrapped__ is one.__wrapped__

    def plain(event, context):
        return event
    wrapped = functools.wraps(plain)(instrument(plain))
    assert inspect.unwrap(wrapped) is inspect.unwrap(plain) is plain
    del wrapped.__wrapped__
    assert wrapped.__wrapped__ is plain and not hasattr(plain, "__wrapped__")
    """
    run_program(program)


def test_the_context_of_an_invocation_is_not_kept(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    import weakref
    from runtime_metrics.aws_lambda import instrument

    class Context:
        aws_request_id = "one"
    handler = instrument(lambda event, context: event)
    context = Context()
    ended = weakref.ref(context)
    handler(1, context)
    del context
    assert ended() is None
    """
    run_program(program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=flushes.url)
    assert len(flushes.rest()) == 1


@pytest.mark.measures
def test_other_threads_run_while_a_stream_blocks(run_program: RunProgram, tmp_path: Path) -> None:
    program = """
    import threading, time
    from runtime_metrics.aws_lambda import instrument

    @instrument
    def handler(event, context):
        global ended
        ended = time.monotonic()
    seen = []
    def look():
        while not stopped.wait(0.001):
            seen.append(time.monotonic())
    stopped = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    waits = []
    for number in range(2000):
        handler(number, None)
        waits.append((ended, time.monotonic()))
        if waits[-1][1] - ended > 0.015:
            break
    stopped.set()
    looking.join()
    began, over = waits[-1]
    assert over - began > 0.015, "the flush has blocked"
    print(sum(began < at < over for at in seen))
    """
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(str(tmp_path / "slow"))
        slow.listen(1)
        output = run_program(
            program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=f"unixstream://{tmp_path}/slow"
        )
    assert int(output) >= 3


def test_any_context_is_accepted_and_none_as_well(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    from runtime_metrics.aws_lambda import instrument

    class Odd:
        @property
        def aws_request_id(self):
            raise ValueError("no id")
        invoked_function_arn = function_version = memory_limit_in_mb = None
    class Numbered:
        aws_request_id = 7
        invoked_function_arn = 8
    class Rude:
        @property
        def aws_request_id(self):
            raise SystemExit("no id")
        @property
        def invoked_function_arn(self):
            raise KeyboardInterrupt

    @instrument
    def handler(event, context=None):
        return inner(event, context)
    @instrument
    def inner(event, context):
        return event
    for context in (None, Odd(), Numbered(), Rude(), {}, "text"):
        assert handler(1, context) == 1
    assert handler(2) == 2
    """
    run_program(program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=flushes.url)
    sent = flushes.rest()
    assert len(sent) == 7
    assert_complete(*(flush.values for flush in sent))
    assert [flush.tag("cold_start") for flush in sent] == ["true", *["false"] * 6]
    assert {flush.tag("functionname") for flush in sent} == {"coffee"}


def test_outside_of_lambda_a_decorated_handler_is_only_called(
    run_program: RunProgram, flushes: Flushes
) -> None:
    program = """
    import threading
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument
    assert instrument(lambda event, context: event)(1, None) == 1
    assert not RuntimeMetrics._enabled
    """
    run_program(program, DD_DOGSTATSD_URL=flushes.url)
    assert flushes.rest() == []


@pytest.mark.measures
def test_enabling_in_a_function_starts_no_thread_and_sends_nothing(
    run_program: RunProgram, flushes: Flushes
) -> None:
    program = """
    import os, time
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument
    @instrument
    def handler(event, context):
        return event
    RuntimeMetrics.enable(tags=["team:core"], flush_interval=0.05)
    assert RuntimeMetrics._enabled
    assert len(os.listdir("/proc/self/task")) == 1
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        pass
    handler(1, None)
    assert len(os.listdir("/proc/self/task")) == 1
    child = os.fork()
    if child == 0:
        assert len(os.listdir("/proc/self/task")) == 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    RuntimeMetrics.disable()
    handler(2, None)
    RuntimeMetrics.enable()
    """
    run_program(program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=flushes.url)
    (only,) = flushes.rest()
    assert "team:core" in only.tags
    assert only["cpu.time.user"] < 0.05


SILENT: dict[str, Any] = {
    "AWS_LAMBDA_FUNCTION_NAME": "coffee",
    "DD_RUNTIME_METRICS_LAMBDA_EXTENSION": "/nowhere/datadog-agent",
}


@pytest.mark.parametrize("variables", [{}, {"DD_AGENT_HOST": "agent.invalid"}], ids=["nothing", "a name"])
def test_an_address_may_be_given_after_the_decorator(
    run_program: RunProgram, flushes: Flushes, variables: dict[str, Any]
) -> None:
    program = """
    import os
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument
    @instrument
    def handler(event, context):
        if event == WHEN:
            RuntimeMetrics.enable(dogstatsd_url=os.environ["URL"])
    if WHEN == 0:
        RuntimeMetrics.enable(dogstatsd_url=os.environ["URL"])
    handler(1, None)
    """
    for when in ("0", "1"):
        run_program(program.replace("WHEN", when), URL=flushes.url, **SILENT, **variables)
        assert len(flushes.rest()) == 1


@pytest.mark.parametrize("first", ["handler(1, None)", "lambda_metric('orders', 1)"])
def test_the_warning_that_nothing_is_sent_comes_with_the_first_metric(
    run_program: RunProgram, first: str
) -> None:
    program = f"""
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument, lambda_metric
    handler = instrument(lambda event, context: event)
    RuntimeMetrics.enable()
    print("set up")
    for _ in range(2):
        {first}
        print("done")
    """
    logged = unnamed(run_program(program, **SILENT))
    assert re.fullmatch(r"set up\nmetrics are not sent.*\ndone\ndone\n", logged)


@pytest.mark.parametrize(
    ("switch", "output"),
    [
        ({"DD_RUNTIME_METRICS_ENABLED": "False"}, ""),
        ({"OTEL_METRICS_EXPORTER": "none"}, "runtime metrics are not started automatically.*\n"),
    ],
    ids=["ours", "OpenTelemetry's"],
)
def test_the_switches_of_automatic_starts_disable_a_function_too(
    run_program: RunProgram, flushes: Flushes, switch: dict[str, Any], output: str
) -> None:
    program = """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    from runtime_metrics import RuntimeMetrics, aws_lambda
    decorated = aws_lambda.instrument(lambda event, context: aws_lambda.lambda_metric("orders", event))
    assert decorated(1, None) is None and aws_lambda.handler(1, None) is False
    assert not RuntimeMetrics._enabled
    EXPLICITLY
    decorated(2, None)
    """
    variables: dict[str, Any] = {
        "AWS_LAMBDA_FUNCTION_NAME": "coffee",
        "DD_DOGSTATSD_URL": flushes.url,
        HANDLER: "operator.eq",
    }
    for explicitly, sets in (("", 0), ("RuntimeMetrics.enable()", 1)):
        source = program.replace("EXPLICITLY", explicitly)
        assert re.fullmatch(output, unnamed(run_program(source, **variables, **switch)))
        first, second, *sent = flushes.datagrams()
        assert (first[:8], second[:8]) == (b"orders:1", b"orders:2")
        assert len(complete_flushes(sent)) == sets


def test_with_its_thread_a_function_is_a_server(
    run_program: RunProgram, flushes: Flushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
    import os, time
    from runtime_metrics.aws_lambda import instrument
    instrument(lambda event, context: event)(1, None)
    assert len(os.listdir("/proc/self/task")) > 1
    """
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "coffee")
    monkeypatch.setenv("DD_DOGSTATSD_URL", flushes.url)
    for name, value in (
        ("DD_RUNTIME_METRICS_LAMBDA_THREAD", "true"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            run_program(program)
        (last,) = flushes.rest()
        assert not any(tag.startswith("cold_start") for tag in last.tags)


def test_without_hooks_the_first_invocation_counts_as_the_first_after_a_restore(
    run_program: RunProgram, flushes: Flushes
) -> None:
    program = """
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument
    handler = instrument(lambda event, context: event)
    RuntimeMetrics.flush()
    handler(1, None)
    handler(2, None)
    """
    run_program(
        program,
        AWS_LAMBDA_FUNCTION_NAME="coffee",
        AWS_LAMBDA_INITIALIZATION_TYPE="snap-start",
        DD_DOGSTATSD_URL=flushes.url,
    )
    before, *after = (flush.tag("runtime-id") for flush in flushes.rest())
    assert len(after) == 2
    assert len(set(after)) == 1
    assert before not in after


def test_outside_of_lambda_a_metric_goes_to_the_configured_address(
    run_program: RunProgram, flushes: Flushes
) -> None:
    # The Agent discards a distribution that has a timestamp.
    program = """
    import time
    from datetime import datetime
    from decimal import Decimal
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import lambda_metric
    lambda_metric("orders", 1, time.time() - 60)
    lambda_metric("2 orders|x:y", Decimal("2.5"), tags=("a:b", "a:c"))
    RuntimeMetrics.enable(service="café", flush_interval=3600)
    lambda_metric("orders", True, None, [])
    lambda_metric("orders", "3", datetime.now())
    print(lambda_metric(metric_name="orders", value=-4, timestamp=None, tags=None))
    RuntimeMetrics.disable()
    """
    assert run_program(program, DD_DOGSTATSD_URL=flushes.url, DD_SERVICE="shop") == "None\n"
    sent = flushes.datagrams()
    assert sent[:5] == [
        b"orders:1|d|#service:shop\n",
        b"orders_x_y:2.5|d|#service:shop,a:b,a:c\n",
        "orders:1|d|#service:café\n".encode(),
        "orders:3|d|#service:café\n".encode(),
        "orders:-4|d|#service:café\n".encode(),
    ]
    assert all(datagram.startswith(PREFIX.encode()) for datagram in sent[5:])


@pytest.mark.measures
def test_no_custom_metric_is_lost_during_a_tick(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    import time
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import lambda_metric
    # A tick waits longer for the interpreter than a custom metric waits for the tick.
    RuntimeMetrics.enable(flush_interval=2)
    began = time.monotonic()
    number = 0
    while time.monotonic() < began + 2.3:
        lambda_metric("orders", number)
        number += 1
        end = time.monotonic() + 0.001
        while time.monotonic() < end:
            pass
    print(number)
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_program, program, DD_DOGSTATSD_URL=flushes.url)
        arrived: list[bytes] = []
        while not running.done():
            arrived += flushes.datagrams()
        arrived += flushes.datagrams()
    orders = [datagram.partition(b"|")[0] for datagram in arrived if datagram.startswith(b"orders")]
    assert orders == [b"orders:%d" % number for number in range(int(running.result()))]
    # The tick, and the last sample.
    assert len(complete_flushes(datagram for datagram in arrived if not datagram.startswith(b"orders"))) == 2


def test_arguments_given_during_an_invocation_apply_to_it(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    from runtime_metrics import RuntimeMetrics
    from runtime_metrics.aws_lambda import instrument
    @instrument
    def handler(event, context):
        RuntimeMetrics.enable(service="tea")
    handler(1, None)
    """
    run_program(program, AWS_LAMBDA_FUNCTION_NAME="coffee", DD_DOGSTATSD_URL=flushes.url)
    (only,) = flushes.rest()
    assert (only.tag("service"), only.tag("cold_start")) == ("tea", "true")


def test_invalid_custom_metrics_are_not_sent_and_each_kind_is_logged_once(tmp_path: Path) -> None:
    program = """
    import math, sys
    from runtime_metrics.aws_lambda import lambda_metric
    for _ in range(3):
        for name in (None, "", 7):
            lambda_metric(name, 1)
        for value in (None, "many", math.inf, object()):
            lambda_metric("orders", value)
        for timestamp in ("now", -1, math.nan, object()):
            lambda_metric("orders", 1, timestamp)
        lambda_metric("orders", 1, 1)
        for tags in ("text", 7, [7]):
            lambda_metric("orders", 1, tags=tags)
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.setblocking(False)
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(line[4:] for line in program.splitlines())],
            env={"DD_DOGSTATSD_URL": f"unix://{tmp_path}/agent"},
            capture_output=True,
            text=True,
            check=True,
        )
        with pytest.raises(BlockingIOError):
            agent.recv(1)
    reasons = [
        "its name is not a text with a letter",
        "its value is not a finite number",
        "its timestamp is neither seconds since 1970 nor a datetime",
        "its timestamp is older than 4 hours",
        "its tags are not texts",
    ]
    lines = unnamed(done.stderr).splitlines()
    assert [line.split(": ")[1].split(";")[0] for line in lines] == reasons


def test_a_disabled_function_sends_nothing(run_program: RunProgram, flushes: Flushes) -> None:
    program = """
    from runtime_metrics.aws_lambda import instrument, lambda_metric
    @instrument
    def handler(event, context):
        lambda_metric("orders", 1)
        return event
    assert handler(1, None) == 1
    """
    run_program(
        program,
        AWS_LAMBDA_FUNCTION_NAME="coffee",
        DD_DOGSTATSD_DISABLE="true",
        DD_DOGSTATSD_URL=flushes.url,
    )
    assert flushes.rest() == []
