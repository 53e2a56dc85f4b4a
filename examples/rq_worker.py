"""A worker of rq whose jobs are reported.

    rq worker --worker-class rq_worker.ReportingWorker

rq runs each job in a forked process that it ends by `os._exit()`, which skips the final flush, and that rarely lives
for an interval. `disable()` sends what the job has used.
"""

from __future__ import annotations

from rq import Worker

from runtime_metrics import RuntimeMetrics

RuntimeMetrics.enable()


class ReportingWorker(Worker):
    """Sends a last sample after each job."""

    def perform_job(self, *arguments: object) -> bool:
        """Runs in the job's process."""
        try:
            return bool(super().perform_job(*arguments))
        finally:
            RuntimeMetrics.disable()
