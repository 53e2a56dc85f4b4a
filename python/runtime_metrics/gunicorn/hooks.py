"""The hooks that Gunicorn finds in its configuration, and how they wrap the other hooks there.

After a star import the file may define three of the four itself, and `install` adds only `nworkers_changed`: the first
that is called wraps everything else.
"""

from __future__ import annotations

import atexit
import functools
import importlib
from typing import TYPE_CHECKING, Any

from runtime_metrics import _core, automatic
from runtime_metrics.gunicorn.guard import guarded, warn_once
from runtime_metrics.gunicorn.master import Master, count_records
from runtime_metrics.gunicorn.worker import (
    post_fork,
    post_worker_init,
    worker_kind,
    wrap_post_request,
    wrap_pre_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    _Hook = Callable[..., Any]

_master: Master | None = None


def install(namespace: MutableMapping[str, Any]) -> None:
    """Wraps the hooks of a configuration file; call it with ``globals()``, last."""
    hook = namespace.get("nworkers_changed", nworkers_changed)
    if isinstance(hook, str):
        # Gunicorn accepts a dotted name, and reports one that cannot be imported.
        module, _, name = hook.rpartition(".")
        try:
            hook = getattr(importlib.import_module(module), name)
        except (AttributeError, ImportError, ValueError):
            return
    if hook is not nworkers_changed:
        hook = _chained(hook, before=_wrap_hooks)
    namespace["nworkers_changed"] = hook


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:  # noqa: ARG001
    """The first hook that Gunicorn calls, when it starts and when it reloads."""
    _wrap_hooks(server)


def on_starting(server: Any) -> None:
    """Called before Gunicorn listens."""
    _wrap_hooks(server)


def when_ready(server: Any) -> None:
    """Called when Gunicorn listens."""
    _wrap_hooks(server)


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Called in the master before it forks a worker."""
    _wrap_hooks(server)


@guarded
def _wrap_hooks(server: Any, *_: Any) -> None:
    """Starts metrics in the master and wraps the hooks of its current configuration, once."""
    global _master
    if _master is None:
        automatic.start()
        if not _core.enabled():
            return
        _master = Master(server)
        _wrap_hooks_at_reload(server)
        atexit.register(_master.at_exit)
    if _master.cfg is server.cfg:
        return
    _master.server, _master.cfg = server, server.cfg
    cfg, kind = server.cfg, worker_kind(server.worker_class)
    if kind is None:
        warn_once(
            f"Gunicorn's worker class {cfg.worker_class_str} calls no hooks: its requests are not counted, and its "
            "workers count as working while they use CPU"
        )
    _master.core.configure(cfg.proc_name, kind is None)
    count_records(server.log, _master.core)
    cfg.set("post_fork", _chained(cfg.post_fork, before=functools.partial(post_fork, _master.core)))
    cfg.set("post_worker_init", _chained(cfg.post_worker_init, after=post_worker_init))
    cfg.set("child_exit", _chained(cfg.child_exit, before=_master.child_exit))
    cfg.set("on_exit", _chained(cfg.on_exit, after=_master.on_exit))
    if kind == "wsgi":
        is_default = cfg.post_request is cfg.settings["post_request"].default
        cfg.set("pre_request", wrap_pre_request(cfg.pre_request))
        cfg.set("post_request", wrap_post_request(cfg.post_request, does_nothing=is_default))


def _wrap_hooks_at_reload(server: Any) -> None:
    """Wraps the hooks of each configuration that Gunicorn reloads; it may call none of ours then."""
    original = server.setup

    @functools.wraps(original)
    def setup(app: Any) -> None:
        original(app)
        _wrap_hooks(server)

    server.setup = setup


def _chained(hook: _Hook, *, before: _Hook | None = None, after: _Hook | None = None) -> _Hook:
    """A hook with one of ours before or after it. It keeps its signature, by which Gunicorn decides how to call it."""

    @functools.wraps(hook)
    def chained(*arguments: Any) -> Any:
        if before is not None:
            before(*arguments)
        try:
            return hook(*arguments)
        finally:
            if after is not None:
                after(*arguments)

    return chained
