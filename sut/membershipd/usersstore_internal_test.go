package membershipd

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/sut/membershipd/access"
)

// TestUsersCannotFillTheStore: who may publish to a stream without a limit fills what is there for users, and no more. The control plane goes on.
func TestUsersCannotFillTheStore(t *testing.T) {
	const left, message = 16 << 20, 512 << 10
	if reserved() >= minMaxStore {
		t.Fatalf("the control plane keeps %d bytes, and a node may have no more than %d", reserved(), minMaxStore)
	}
	specs := bucketSpecs
	t.Cleanup(func() { bucketSpecs = specs })
	bucketSpecs = append([]bucketSpec(nil), specs...)
	bucketSpecs[0].maxBytes += minMaxStore - minMaxStore/storeMargin - left - reserved()
	c := newInProcess(t, func(m *Config) { m.MaxStore = minMaxStore })
	c.startAll()
	admin := c.api(c.admin, 0)
	eve := c.add(t, admin, "eve", access.RoleMember)
	nc, err := c.login(c.admin, 0)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), settleWait)
	defer cancel()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "LOGS", Subjects: []string{"logs"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	body, acked := make([]byte, message), 0
	for err == nil && acked*message < minMaxStore/2 { // what is used is counted anew every second or so
		if _, err = js.Publish(ctx, "logs", body); err == nil {
			acked++
		}
	}
	var refused *jetstream.APIError
	if !errors.As(err, &refused) || refused.ErrorCode != codeAccountLimit {
		t.Errorf("after %d bytes of %d: %v", acked*message, left, err)
	}
	if acked*message < left/2 {
		t.Errorf("%d bytes were taken, %d are there", acked*message, left)
	}
	if _, err := admin.DisableUser(ctx, "eve"); err != nil {
		t.Errorf("disable a user: %v", err)
	}
	if _, err := c.login(eve, 1); err == nil {
		t.Error("a disabled user gets in")
	}
	c.ready(0, 1, 2)
}

// codeAccountLimit is "resource limits exceeded for account".
const codeAccountLimit = 10002
