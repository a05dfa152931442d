package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/client"
)

// A program that publishes to a stream. Every node of the cluster is given, so that any two may be down.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := client.Connect(ctx, client.Options{
		Servers:     []string{"nats://192.0.2.1:4222", "nats://192.0.2.2:4222", "nats://192.0.2.3:4222"},
		SeedFile:    "/etc/orders/user.nk", // mode 0600
		CAFile:      "/etc/orders/client-ca.crt",
		Name:        "orders",
		InboxPrefix: client.InboxPrefix("orders"),
	})
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("the user's seed is missing")
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	js, err := jetstream.New(conn.Conn)
	if err != nil {
		fmt.Println(err)
		return
	}
	// The same id again, after an error, is stored once.
	if _, err := js.Publish(ctx, "orders.new", []byte("17"), jetstream.WithMsgID("order-17")); err != nil {
		fmt.Println(err)
	}
	// Output: the user's seed is missing
}
