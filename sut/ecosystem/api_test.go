package ecosystem_test

import (
	"context"
	"testing"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/membershipd/control"
)

// dial connects the control API's client to one node, as the admin.
func (b *bus) dial(t *testing.T, node int) *control.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	c, err := control.Dial(ctx, client.Options{Servers: b.servers(node)[:1], SeedFile: b.adminFile, CAFile: b.caFile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// callAPI asks until every node has answered once: only then do all of them count requests. Whichever node is near answers.
func (b *bus) callAPI(t *testing.T) {
	t.Helper()
	answered := map[string]bool{}
	for i := range b.Nodes() {
		c := b.dial(t, i)
		await(t, "an answer of another node", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			s, err := c.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			answered[s.Node] = true
			return len(answered) > i
		})
	}
}
