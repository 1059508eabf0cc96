"""An application of Celery whose tasks are reported: as a user writes it."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.exceptions import Ignore

import runstream.celery
from runstream import current_run

app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "memory://"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    worker_hijack_root_logger=False,
    broker_transport_options={"visibility_timeout": 3600},
)
reports = runstream.celery.connect(
    app,
    os.environ.get("SHOP_SERVER", "http://127.0.0.1:8080"),
    api_key=os.environ.get("SHOP_KEY"),
)


@app.task(name="shop.add")  # type: ignore[untyped-decorator]
def add(a: int, b: int = 1) -> int:
    current_run().metadata.set("progress", 0.5)
    return a + b


@app.task(name="shop.fail")  # type: ignore[untyped-decorator]
def fail(order: str) -> None:
    raise ValueError(f"no such order: {order}")


@app.task(bind=True, name="shop.flaky", max_retries=5)  # type: ignore[untyped-decorator]
def flaky(self: Any, until: int) -> int:
    attempts: int = self.request.retries + 1
    if attempts < until:
        raise self.retry(exc=OSError(f"attempt {attempts} failed"), countdown=0)
    return attempts


@app.task(name="shop.endless")  # type: ignore[untyped-decorator]
def endless(**_: Any) -> None:
    current_run().metadata.set("begun", True)
    while True:
        time.sleep(0.01)


@app.task(name="shop.exits")  # type: ignore[untyped-decorator]
def exits() -> None:
    """As a task does that is killed for want of memory."""
    os._exit(9)


@app.task(name="shop.ignored")  # type: ignore[untyped-decorator]
def ignored() -> None:
    raise Ignore


@app.task(bind=True, name="shop.replaced")  # type: ignore[untyped-decorator]
def replaced(self: Any) -> None:
    raise self.replace(add.s(20, 22))
