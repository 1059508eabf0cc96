"""Redis and Valkey as a broker: pub/sub on one server, sharded pub/sub on a cluster."""

from store.broker.redis.broker import RedisBroker
from store.broker.redis.cluster import ClusterBroker
from store.broker.redis.tuning import Tuning

__all__ = ["ClusterBroker", "RedisBroker", "Tuning"]
