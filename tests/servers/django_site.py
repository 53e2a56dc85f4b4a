"""A project of Django in one file, with django-q2's cluster; its database is in the folder QUEUE.

python django_site.py COMMAND...
python django_site.py prepare    makes the database and enqueues jobs
"""

from __future__ import annotations

import os
import sys

from django.conf import settings  # type: ignore[import-not-found]
from django.core.management import execute_from_command_line  # type: ignore[import-not-found]
from jobs import work

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(os.environ["QUEUE"], "django.db"),
            "OPTIONS": {"timeout": 20},
        }
    },
    DEBUG=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django_q"],
    Q_CLUSTER={"workers": 2, "orm": "default", "poll": 0.1, "timeout": 60, "retry": 120},
    ROOT_URLCONF=__name__,
    SECRET_KEY="none",
    USE_TZ=True,
)


urlpatterns: list[object] = []

if __name__ == "__main__":
    if sys.argv[1:] == ["prepare"]:
        execute_from_command_line([sys.argv[0], "migrate", "--verbosity", "0"])
        from django_q.tasks import async_task  # type: ignore[import-not-found]

        for _ in range(4):
            async_task("jobs.work")
    else:
        work()
        execute_from_command_line(sys.argv)
