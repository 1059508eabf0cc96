"""Joins history to live, in the order that can only repeat and never lose.

`joins` starts a `joining` for each subscription, which takes its history out of the `ring`, by a
`replay` of the `log` or from a `snapshot`, shows it (`showing`) and goes live. What those who join
a project at the same time read and are shown alike is `shared`.
"""

from realtime.hub.joining.joins import Joins

__all__ = ["Joins"]
