// Centrifuge, the library that Centrifugo is made of, with its Redis broker.
//
//	peer PORT PUBLISH_PORT REDIS_PORT
//
// What comes as a line to PUBLISH_PORT is published to all who are connected.
package main

import (
	"bufio"
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/centrifugal/centrifuge"
)

const channel = "bench"

func main() {
	port, publishPort, redisPort := os.Args[1], os.Args[2], os.Args[3]
	node, err := centrifuge.New(centrifuge.Config{})
	must(err)
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{
		Address: "127.0.0.1:" + redisPort,
	})
	must(err)
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{
		Shards: []*centrifuge.RedisShard{shard},
	})
	must(err)
	node.SetBroker(broker)
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{},
			Subscriptions: map[string]centrifuge.SubscribeOptions{channel: {}},
			// The readers of the benchmark answer no pings of this kind.
			PingPongConfig: &centrifuge.PingPongConfig{PingInterval: time.Hour, PongTimeout: time.Minute},
		}, nil
	})
	must(node.Run())
	listener, err := net.Listen("tcp", "127.0.0.1:"+publishPort)
	must(err)
	go publish(node, listener)
	http.Handle("/", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{}))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}

func publish(node *centrifuge.Node, listener net.Listener) {
	for {
		connection, err := listener.Accept()
		must(err)
		lines := bufio.NewScanner(connection)
		for lines.Scan() {
			_, err := node.Publish(channel, append([]byte(nil), lines.Bytes()...))
			must(err)
		}
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
