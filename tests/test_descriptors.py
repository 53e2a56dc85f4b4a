"""Descriptors: ours are never those of the standard streams, and are opened again when the program has some left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogue_names import assert_complete
from launching import RUN
from receiving import Flushes

if TYPE_CHECKING:
    from conftest import Preloaded, RunProgram

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the descriptors are read from Linux's /proc")

PROGRAM = str(Path(__file__).parent / "programs" / "closed_streams.py")


@pytest.mark.parametrize("transport", ["udp", "unix"])
@pytest.mark.parametrize("closed_by", ["the program", "its parent"])
@pytest.mark.parametrize("launched", [False, True], ids=["enabled", "launched"])
def test_what_a_program_without_standard_streams_prints_never_arrives(
    tmp_path: Path, transport: str, closed_by: str, launched: bool
) -> None:
    report = tmp_path / "report"
    modes = [*(["close"] if closed_by == "the program" else []), *([] if launched else ["enable"])]
    closing = "<&- >&- 2>&-" if closed_by == "its parent" else ""
    command = [*(RUN if launched else []), sys.executable, PROGRAM, str(report), *modes]
    with Flushes.udp() if transport == "udp" else Flushes.unix(str(tmp_path / "dsd.socket")) as receiver:
        subprocess.run(
            ["sh", "-c", f'exec "$@" {closing}', "sh", *command],
            env=os.environ | {"DD_DOGSTATSD_URL": receiver.url, "DD_RUNTIME_METRICS_INTERVAL": "3600"},
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        datagrams = receiver.datagrams()
    checks = {check.pop("when"): check for check in map(json.loads, report.read_text().splitlines())}
    # As without metrics.
    nothing = {"streams": [None] * 3, "errors": ["EBADF"] * 3, "printed": "EBADF"}
    assert checks == {
        when: nothing | {"sent": True, "sockets": 1} for when in ("first", "reconnected", "forked")
    }
    # These three, and the one at the exit.
    assert sum(datagram.startswith(b"runtime.python.cpu.time.sys:") for datagram in datagrams) == 4
    assert not [datagram for datagram in datagrams if b"4711" in datagram]


def test_while_a_name_is_looked_up_a_closed_stream_stays_closed(
    run_program: RunProgram, preloaded: Preloaded, tmp_path: Path
) -> None:
    """The C library opens descriptors of its own then; this one says which number it was given."""
    run_program(
        """
        import logging, os, time
        from pathlib import Path
        from runtime_metrics import RuntimeMetrics

        logging.disable()
        os.close(0)
        RuntimeMetrics.enable(dogstatsd_url="udp://agent.example:8125")
        opened = Path(os.environ["LOOK_UP"])
        deadline = time.monotonic() + 30
        while not opened.exists() or not opened.read_text().endswith("\\n"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert int(opened.read_text()) > 2
        try:
            os.write(0, b"customer 4711")
        except OSError as error:
            assert error.errno == 9
        else:
            raise AssertionError
        """,
        LD_PRELOAD=preloaded("opening_resolver"),
        LOOK_UP=str(tmp_path / "opened"),
    )


LACKING = """
    import logging, os, resource
    from runtime_metrics import RuntimeMetrics

    logging.disable()

    def allow(number):
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, HARD))

    SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
    {before}
    for _ in range(3):
        assert not RuntimeMetrics.flush()
        found = RuntimeMetrics.snapshot()
        assert "runtime.python.mem.rss" not in found and "runtime.python.thread_count" in found
    allow(SOFT)
    assert RuntimeMetrics.flush()
    """

CLOSING = """
    import os
    from runtime_metrics import RuntimeMetrics

    RuntimeMetrics.enable()
    assert RuntimeMetrics.flush()
    os.closerange(3, 256)
    assert RuntimeMetrics.flush()
    """


@pytest.mark.parametrize(
    ("program", "flushes"),
    [
        (LACKING.format(before="allow(3); RuntimeMetrics.enable()"), 2),
        (
            LACKING.format(
                before="RuntimeMetrics.enable(); RuntimeMetrics.flush(); os.closerange(3, 256); allow(3)"
            ),
            3,
        ),
        (CLOSING, 3),
    ],
    ids=["none left at the start", "none left after closing all", "closed all"],
)
def test_what_is_not_open_is_opened_again_as_soon_as_it_can_be(
    run_program: RunProgram, program: str, flushes: int
) -> None:
    with Flushes.udp() as receiver:
        run_program(program, DD_DOGSTATSD_URL=receiver.url, DD_RUNTIME_METRICS_INTERVAL="3600")
        arrived = receiver.rest()
    # The last is sent at the exit.
    assert len(arrived) == flushes
    assert_complete(*(flush.values for flush in arrived))
