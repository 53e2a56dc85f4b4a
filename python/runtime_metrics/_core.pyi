from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import (
    Any,
    Final,
    Literal,
    SupportsFloat,
    SupportsIndex,
    TypedDict,
    TypeVar,
    final,
    type_check_only,
)

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
    level: Literal["default"] | None = None,
    wire_type: Literal["distribution", "gauge"] | None = None,
) -> None:
    """Start to collect this process's runtime metrics and to send them at every interval.

    What is not given comes from the environment (DD_DOGSTATSD_URL, DD_SERVICE, ...), else from the defaults. The
    first metrics leave one interval from now, the last at the interpreter's exit. In AWS Lambda nothing leaves but at
    the end of each invocation of a handler that runtime_metrics.aws_lambda has wrapped.

    Called again without arguments it does nothing. Called with arguments after an automatic start it applies
    them; after an explicit one it ignores them with a warning.

    Args:
        tracer: Ignored, with a DeprecationWarning; ddtrace once had it.
        dogstatsd_url: Where to send: udp://host[:port], unix:///path, unixgram:///path, unixstream:///path,
            host[:port] or /path.
        flush_interval: Seconds between two flushes, from 0.01 to 86400; 10 by default.
        service: The tag service.
        env: The tag env.
        version: The tag version.
        tags: Further tags: a mapping, or "key:value" strings.
        level: How much to send: "default".
        wire_type: "distribution", or "gauge" to have the last of an interval's values win.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has the wrong value. In both cases nothing has been started.
    """

def enable_automatically() -> None:
    """Start as a launcher does: a later explicit start may still give arguments."""

def disable() -> None:
    """Send a last sample and stop; both threads have ended when it returns, after 1 s at the latest.

    Does nothing if nothing is running.
    """

def flush() -> bool:
    """Sample and send now, in the calling thread, and begin a new interval.

    Returns:
        Whether everything has left: False if metrics are disabled, if another flush is under way and does not
        end within 100 ms, or if something could not be sent.
    """

def snapshot() -> dict[str, int | float]:
    """Read the current values without sending them or beginning a new interval.

    Returns:
        Value by full name, as a flush would send it now: changes and aggregates hold what has gathered since the
        last flush. What is not known is left out, and what has no single number; empty if metrics are disabled.
    """

def status() -> Status:
    """Tell how it stands with sending.

    Returns:
        A dict with these keys:
        state: "off", "disabled" by DD_DOGSTATSD_DISABLE, "untried" before the first flush, "working", "failing", or
            "busy" if a flush takes longer than 2 s.
        since: When sending began to be so, as time.time() counts; None if nothing is collected.
        error: The last error with its likely cause, also where sending works again, or None.
        address: Where metrics go, "udp://localhost:8125"; None if that is the log, or nowhere.
        chosen_by: The argument or variable that chose the address, "default" if none did, or None.
        peer: The address that a UDP host has been resolved to, "127.0.0.1:8125", or None.
        transport: "udp", "uds" for datagrams over a Unix socket, "uds-stream", or None.
        metrics: Values written since enable().
        packets_sent, bytes_sent: What the kernel took.
        packets_dropped, bytes_dropped: What was lost, also where that was learnt after the kernel had taken it.
    """

def enabled() -> bool:
    """Tell whether metrics are collected."""

def instrument(handler: _Handler) -> _Handler:
    """Wrap the handler of a function in AWS Lambda: each invocation sends its metrics when it ends.

    However often a handler is wrapped, an invocation sends them once. Result, exception and stack are the handler's
    own. Outside AWS Lambda the handler is only called.

    Args:
        handler: A function of an event and a context, or anything else that can be called so.

    Returns:
        What is to be called in its place; it has the handler's name, attributes and __wrapped__.

    Raises:
        TypeError: The handler cannot be called.
    """

def note_set_up() -> None:
    """Note that a function has been set up by now, if this is one; nothing is started.

    In an image that is stored it is set up where the image is restored.
    """

def lambda_metric(
    metric_name: str,
    value: SupportsFloat | SupportsIndex | str,
    timestamp: float | datetime | None = None,
    tags: Iterable[str] | None = None,
) -> None:
    """Send one value of a distribution now, through the socket of the runtime metrics.

    In AWS Lambda with neither the Datadog Lambda Extension nor an address it goes to the log if DD_FLUSH_TO_LOG is
    true, else nowhere. Nothing is raised on account of a wrong value; the first of each kind is a warning.

    Args:
        metric_name: The name of the metric.
        value: The value.
        timestamp: When it was so: seconds since 1970 or a datetime, at most 4 hours ago. Now by default.
        tags: Its tags: "key:value" strings.
    """

def lead_gunicorn(question: Callable[[], dict[str, Any]]) -> GunicornMaster:
    """Make this process Gunicorn's master, before it forks its workers.

    Args:
        question: Called at each flush, in any thread: what Gunicorn's own objects say. A dict with any of
            these keys: workers, a list of pids; replaced, whether another master serves in its place; backlog.
    """

def catalogue() -> list[Metric]:
    """List every metric there is, in the order in which they are sent."""

def client_telemetry() -> dict[str, str]:
    """Describe by name the counts of our own sending, which are sent only where that is asked for."""

def variables() -> list[Variable]:
    """List every environment variable that is read."""

@type_check_only
class Status(TypedDict):
    """How it stands with sending, as status() describes it."""

    state: Literal["off", "disabled", "untried", "working", "failing", "busy"]
    since: float | None
    error: str | None
    address: str | None
    chosen_by: str | None
    peer: str | None
    transport: Literal["udp", "uds", "uds-stream"] | None
    metrics: int
    packets_sent: int
    bytes_sent: int
    packets_dropped: int
    bytes_dropped: int

@final
class Metric:
    """A row of the catalogue."""

    @property
    def name(self) -> str:
        """Full name on the wire."""
    @property
    def unit(self) -> str:
        """What one of the value is: byte, second, ..."""
    @property
    def kind(self) -> str:
        """Kind of value: now, change, aggregate, observations or family."""
    @property
    def wire(self) -> str:
        """Its DogStatsD type; "d or g" where the settings choose it."""
    @property
    def suffix(self) -> str | None:
        """What follows its name in the names that are sent, after a dot; None if the name is one."""
    @property
    def tags(self) -> list[str]:
        """The keys of the tags that are its own."""
    @property
    def level(self) -> str:
        """The lowest level at which it is sent."""
    @property
    def by_name(self) -> bool:
        """Whether it is sent only where it is asked for by name, whatever the level."""
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

@final
class Variable:
    """An environment variable."""

    @property
    def name(self) -> str:
        """Its name."""
    @property
    def default(self) -> str:
        """What holds while it is unset, empty or wrong."""
    @property
    def accepts(self) -> str:
        """The values it takes."""
    @property
    def effect(self) -> str:
        """What it does."""

@final
class GunicornMaster:
    """Gunicorn's master, which the workers it forks inherit."""

    def describe(self, app: str, by_cpu: bool) -> None:
        """Name the application, and say whether only CPU time can tell what workers do."""
    def work(
        self, question: Callable[[], dict[str, Any]], counts: bool, capacity: int | None = None
    ) -> Requests:
        """Make this process a worker, in the child that the master has just forked.

        Args:
            question: As for the master, with the key connections.
            counts: Whether requests are counted; otherwise Gunicorn does it.
            capacity: How many requests it can serve at once, if that is limited.
        """
    def release(self, pid: int) -> None:
        """Note in the master that a worker has ended."""
    def end(self) -> None:
        """Note in the master that it is about to exit."""
    def record(self, level: int, exception: bool) -> None:
        """Count a record on Gunicorn's logger.

        Args:
            level: Its level, as the module logging counts.
            exception: Whether it tells of one.
        """

@final
class Requests:
    """The requests of a worker."""

    def begin(self) -> Request:
        """Begin a request; it ends when what is returned is told so, or is gone."""
    def refuse(self, status: int | None) -> None:
        """Count a request that the server has refused before it began."""

@final
class Request:
    """A request that is being served."""

    def answer(self) -> None:
        """Note that it has been answered: what the worker still does with it is no part of its duration."""
    def end(self, status: int | None, queued_since: object = None) -> None:
        """End it and count it. Of several calls the first counts.

        Args:
            status: The HTTP status of its answer; None if there was none.
            queued_since: The header X-Request-Start, if there is one.
        """
    def fail(self, queued_since: object = None) -> None:
        """End it without an answer. If the server answers in its place, end() says how; otherwise it counts as 500.

        Args:
            queued_since: The header X-Request-Start, if there is one.
        """
    def leave(self) -> None:
        """End it without counting it."""

@final
class GcCallback:
    """Counts the collections of one collector."""

    def observe(self, phase: object, info: object) -> None:
        """Note the start or the stop of a collection; what gc calls."""
