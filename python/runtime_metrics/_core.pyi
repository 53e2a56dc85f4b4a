from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import (
    Any,
    Final,
    Literal,
    SupportsFloat,
    SupportsIndex,
    TypeVar,
    final,
)

from runtime_metrics.status import Status

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

__version__: Final[str]

def enable(
    tracer: object = None,
    dogstatsd_url: str | None = None,
    flush_interval: float | None = None,
    *,
    service: str | None = None,
    env: str | None = None,
    version: str | None = None,
    tags: Mapping[str, str] | Iterable[str] | None = None,
    level: Literal["default", "standard", "detailed"] | None = None,
    wire_type: Literal["distribution", "gauge"] | None = None,
) -> None:
    """Start to collect this process's runtime metrics and to send them at every interval.

    Arguments that are not given come from the environment (DD_DOGSTATSD_URL, DD_SERVICE, ...), else from the
    defaults. The first metrics are sent one interval from now, the last when the interpreter exits. In AWS Lambda,
    metrics are sent only at the end of each invocation of a handler that runtime_metrics.aws_lambda has wrapped.

    Called again without arguments, or with those in effect, it does nothing. Other arguments are applied after an
    automatic start; after an explicit one they are ignored, with a warning that names them.

    Args:
        tracer: Ignored, with a DeprecationWarning; ddtrace used to accept it.
        dogstatsd_url: Where to send: udp://host[:port], unix:///path, unixgram:///path, unixstream:///path,
            host[:port] or /path.
        flush_interval: Seconds between two flushes, from 0.01 to 86400; 10 by default.
        service: The tag service.
        env: The tag env.
        version: The tag version.
        tags: Further tags: a mapping, or "key:value" strings.
        level: How much to send: "default"; "standard", which adds what explains why a process is slow and what will end
            it; or "detailed", which adds what an investigation asks for next.
        wire_type: "distribution", or "gauge", of which only the last value in an interval counts.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value. In both cases nothing is started.
    """

def enable_automatically() -> None:
    """Start as a launcher does: a later enable() may still give arguments."""

def disable() -> None:
    """Send a last time and stop; both threads have ended when it returns, after 1 s at the latest.

    Does nothing if metrics are not collected.
    """

def flush() -> bool:
    """Collect and send now, in the calling thread, and begin a new interval.

    Returns:
        Whether everything was sent: False if metrics are not collected, if another flush is under way and does not
        end within 100 ms, if something could not be sent, or if memory is short. Then the interval goes on.
    """

def snapshot() -> dict[str, int | float]:
    """Read the current values without sending them or beginning a new interval.

    Returns:
        The values by full name, as a flush would send them now: changes and aggregates are those since the last
        flush. Without values that are unknown or not a single number. Empty if metrics are not collected, or while
        memory is short.
    """

def status() -> Status:
    """Return the delivery status.

    Returns:
        A dict with these keys:
        state: "off", "disabled" by DD_DOGSTATSD_DISABLE, "untried" before the first flush, "working", "failing",
            "busy" if a flush takes longer than 2 s, or "on demand" if the system refuses another thread: until it
            allows one, only flush() and the exit send.
        since: The time.time() of the change to this state; None if metrics are not collected.
        error: The last error with its likely cause, even if sending works again, or None.
        address: Where metrics are sent, such as "udp://localhost:8125"; None if that is the log, or nowhere.
        chosen_by: The argument or variable that chose the address, "default" if none did, or None.
        peer: The address that a UDP host was resolved to, such as "127.0.0.1:8125", or None.
        transport: "udp", "uds" for datagrams over a Unix socket, "uds-stream", or None.
        metrics: Values written since enable().
        packets_sent, bytes_sent: What the kernel accepted, without what is known to have been refused.
        packets_dropped, bytes_dropped: What was lost, even if that became known only after the kernel had accepted it.
        left_to_ddtrace: The names of metrics that are not sent as ddtrace sends them itself.
        selected: Each metric that is selected, by name: "sent" if the last flush had a value of it, otherwise why not:
            the reason, or every possible one where the actual one is unknown.

    Raises:
        MemoryError: Memory is short.
    """

def enabled() -> bool:
    """Return whether metrics are collected."""

def instrument(handler: _Handler) -> _Handler:
    """Wrap the handler of a function in AWS Lambda: each invocation sends its metrics when it ends.

    If a handler is wrapped several times, an invocation still sends once. The result, exceptions and their stack are
    those of the handler. Outside AWS Lambda the handler is just called.

    Args:
        handler: A function of an event and a context, or another callable with these parameters.

    Returns:
        The wrapper, to be called in place of the handler; it has the handler's name and attributes, and __wrapped__.

    Raises:
        TypeError: The handler is not callable.
    """

def mark_set_up() -> None:
    """Mark the execution environment of a function as set up; does nothing elsewhere, and starts nothing.

    In a function that is restored from a snapshot, it counts as set up when it is restored.
    """

def lambda_metric(
    metric_name: str,
    value: SupportsFloat | SupportsIndex | str,
    timestamp: float | datetime | None = None,
    tags: Iterable[str] | None = None,
) -> None:
    """Send one value of a distribution now, to where the runtime metrics are sent.

    In AWS Lambda, with neither the Datadog Lambda Extension nor an address, it is written to the log if DD_FLUSH_TO_LOG
    is true, else dropped. A wrong value raises nothing; the first of each kind is logged as a warning.

    Args:
        metric_name: The name of the metric.
        value: The value.
        timestamp: The time of the value: seconds since 1970 or a datetime, at most 4 hours ago. Now by default.
            A number too large for seconds counts milliseconds, microseconds or nanoseconds. Left out unless the
            value goes to the Datadog Lambda Extension or to the log: the Agent would discard it.
        tags: The tags of the value: "key:value" strings.
    """

def become_gunicorn_master(read_state: Callable[[], dict[str, Any]]) -> GunicornMaster:
    """Make this process Gunicorn's master, before it forks its workers.

    Args:
        read_state: Called at each flush, in any thread, to read the state of Gunicorn's own objects. Returns a dict
            with any of these keys: workers, a list of pids; replaced, whether another master serves in its place;
            backlog, how many connections wait to be accepted.
    """

def catalogue() -> list[Metric]:
    """List every metric there is, in the order in which they are sent."""

def incidents() -> list[Incident]:
    """List the incidents that metrics explain."""

def lag_ladder() -> list[tuple[str, str]]:
    """List the metrics that tell whose fault it is that something comes late, and whom each blames.

    Each contains the ones before it: the first that is high is to blame.
    """

def selected_names(level: str | None = None) -> list[str]:
    """List the names of the metrics that a level selects, with what variables include and exclude.

    Raises:
        ValueError: There is no such level.
    """

def is_named(name: str, pattern: str) -> bool:
    """Whether a pattern names a metric, as those of the variables do."""

def client_telemetry() -> dict[str, str]:
    """Describe the counts of what was sent and lost, by name; they are sent only if that is enabled."""

def variables() -> list[Variable]:
    """List every environment variable that is read."""

@final
class Metric:
    """A row of the catalogue."""

    @property
    def name(self) -> str:
        """Full name on the wire."""
    @property
    def unit(self) -> str:
        """Unit of the value: byte, second, ..."""
    @property
    def kind(self) -> str:
        """Kind of value: now, change, alarm, aggregate, observations or family."""
    @property
    def wire(self) -> str:
        """Its DogStatsD type; "d or g" if the settings decide."""
    @property
    def suffix(self) -> str | None:
        """What follows the name after a dot in the names that are sent; None if the name itself is sent."""
    @property
    def tags(self) -> list[str]:
        """The keys of the tags that only this metric has."""
    @property
    def series(self) -> int:
        """How many series a process sends at most: names with distinct tags."""
    @property
    def level(self) -> str:
        """The lowest level that includes it."""
    @property
    def by_name(self) -> bool:
        """Whether it is sent only if it is included by name, whatever the level."""
    @property
    def needs(self) -> list[str]:
        """The sources that its value needs."""
    @property
    def source(self) -> str:
        """Where the fact comes from."""
    @property
    def description(self) -> str:
        """What the value means."""
    @property
    def absent(self) -> str:
        """When it is not sent, as the end of a sentence."""
    @property
    def opentelemetry(self) -> str | None:
        """The nearest OpenTelemetry metric, if there is one."""
    @property
    def explains(self) -> list[str]:
        """The symptoms of the incidents that it explains."""
    @property
    def read_next(self) -> list[str]:
        """The names of the metrics to read after it."""

@final
class Incident:
    """Something that goes wrong, and the metrics that tell why."""

    @property
    def symptom(self) -> str:
        """What is seen."""
    @property
    def clues(self) -> list[tuple[str, str]]:
        """The names of metrics in the order in which to read them, each with what to look for and what it means."""

@final
class Variable:
    """An environment variable."""

    @property
    def name(self) -> str:
        """Its name."""
    @property
    def default(self) -> str:
        """What applies while it is unset, empty or wrong."""
    @property
    def accepts(self) -> str:
        """The values that are accepted."""
    @property
    def effect(self) -> str:
        """What it does."""

@final
class GunicornMaster:
    """Gunicorn's master. The workers that it forks inherit this object."""

    def configure(self, app: str, by_cpu: bool) -> None:
        """Set the application's name, and whether workers count as working by their CPU time alone."""
    def become_worker(
        self, read_state: Callable[[], dict[str, Any]], counts: bool, capacity: int | None = None
    ) -> Requests:
        """Make this process a worker, in the child that the master has just forked.

        Args:
            read_state: As for the master, with the key connections: how many the worker holds.
            counts: Whether requests are counted here; otherwise Gunicorn counts them itself.
            capacity: How many requests the worker can serve at once, if that is limited.
        """
    def release(self, pid: int) -> None:
        """Mark a worker as ended, in the master."""
    def mark_ended(self) -> None:
        """Mark the master as about to exit, in the master."""
    def count_record(self, level: int, exception: bool) -> None:
        """Count a record on Gunicorn's logger.

        Args:
            level: Its numeric level.
            exception: Whether it carries an exception.
        """

@final
class Requests:
    """The requests of a worker."""

    def begin(self) -> Request:
        """Begin a request. It ends by a method of the returned object, at the latest when that is deleted."""
    def refuse(self, status: int | None) -> None:
        """Count a request that the server refused before it began."""

@final
class Request:
    """A request that is being served."""

    def answer(self) -> None:
        """Mark it as answered: what the worker does with it afterwards is not part of its duration."""
    def end(self, status: int | None, queued_since: object = None) -> None:
        """End it and count it; of several calls, only the first does.

        Args:
            status: The HTTP status of its response; None if there was none.
            queued_since: The header X-Request-Start, if there is one.
        """
    def fail(self, queued_since: object = None) -> None:
        """End it without a response. If the server then responds itself, call end(); otherwise it counts as a 500.

        Args:
            queued_since: The header X-Request-Start, if there is one.
        """
    def leave(self) -> None:
        """End it without counting it."""

@final
class GcCallback:
    """The callback in gc.callbacks that counts collections."""
