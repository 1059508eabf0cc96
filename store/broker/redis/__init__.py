"""Redis and Valkey as a broker: pub/sub."""

from store.broker.redis.broker import RedisBroker
from store.broker.redis.tuning import Tuning

__all__ = ["RedisBroker", "Tuning"]
