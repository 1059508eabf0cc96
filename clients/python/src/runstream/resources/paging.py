"""Lists that come in pages: `await` one for a page, `async for` one for all there is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from runstream.commands import given
from runstream.http import Http

T = TypeVar("T")
PlaceT = TypeVar("PlaceT")


@dataclass(frozen=True)
class Page(Generic[T, PlaceT]):
    """A part of a list; `next` is the `after` of the next part, None on the last: a text, or in
    a run's history the version."""

    data: list[T]
    next: PlaceT | None = None


class Listing(Generic[T, PlaceT]):
    """A list of the server's, not asked for yet.

    `await listing` gives its first `Page`; `async for item in listing` gives every item,
    page after page. What is made meanwhile may or may not be among them.
    """

    def __init__(
        self,
        fetch: Callable[[PlaceT | None], Awaitable[Page[T, PlaceT]]],
        after: PlaceT | None = None,
    ) -> None:
        self._fetch = fetch
        self._after = after

    def __await__(self) -> Generator[Any, None, Page[T, PlaceT]]:
        return self._first().__await__()

    async def _first(self) -> Page[T, PlaceT]:
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
    http: Http, kind: type[Page[T, str]], path: str, *, limit: int | None, after: str | None
) -> Listing[T, str]:
    """What is at this path, in pages of this kind."""

    async def fetch(place: str | None) -> Page[T, str]:
        return await http.call(kind, "GET", path, query=given(limit=limit, after=place))

    return Listing(fetch, after)
