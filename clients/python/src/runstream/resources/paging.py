"""Lists that come in pages: `await` one for a page, `async for` one for all there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from runstream.commands import given
from runstream.http import Http

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list; `next` is the `after` of the next part, None on the last."""

    data: list[T]
    next: Any = None


class Listing(Generic[T]):
    """A list of the server's, not asked for yet.

    `await listing` gives its first `Page`; `async for item in listing` gives every item,
    page after page. What is made meanwhile may or may not be among them.
    """

    def __init__(self, fetch: Callable[[Any], Awaitable[Page[T]]], after: Any = None) -> None:
        self._fetch = fetch
        self._after = after

    def __await__(self) -> Generator[Any, None, Page[T]]:
        return self._first().__await__()

    async def _first(self) -> Page[T]:
        return await self._fetch(self._after)

    async def __aiter__(self) -> AsyncIterator[T]:
        after = self._after
        while True:
            page = await self._fetch(after)
            for item in page.data:
                yield item
            if page.next is None:
                return
            after = page.next


def listing(
    http: Http, kind: type[Page[T]], path: str, *, limit: int | None, after: str | None
) -> Listing[T]:
    """What is at this path, in pages of this kind."""

    async def fetch(place: str | None) -> Page[T]:
        return await http.call(kind, "GET", path, query=given(limit=limit, after=place))

    return Listing(fetch, after)
