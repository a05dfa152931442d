package membershipd_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd"
	"github.com/unibus/unibus/sut/membershipd/control"
)

const waitShort = 2 * time.Second

func connect(t *testing.T, addr string, opts ...nats.Option) (*nats.Conn, error) {
	t.Helper()
	nc, err := nats.Connect("nats://"+addr, append(opts, nats.Timeout(waitLong), nats.MaxReconnects(0))...)
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func as(t *testing.T, key nkeys.KeyPair) nats.Option {
	t.Helper()
	pub, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return nats.Nkey(pub, key.Sign)
}

// TestAccess tries to get in, and to get at what is not for users.
func TestAccess(t *testing.T) {
	c := newTestCluster(t)
	c.startAll(t)
	c.converge(t, 3, 0, 1, 2)
	addr := c.configs[0].ClientListen
	t.Run("refused", func(t *testing.T) { c.testRefused(t, addr) })
	t.Run("control plane out of reach", func(t *testing.T) { c.testOutOfReach(t, addr) })
	t.Run("forged identity", func(t *testing.T) { c.testForged(t, addr) })
	t.Run("service discovery", func(t *testing.T) { c.testDiscovery(t, addr) })
	t.Run("secrets", c.testSecrets)
}

func (c *testCluster) testRefused(t *testing.T, addr string) {
	stranger, _ := newKey(t)
	internal, err := membershipd.LoadIdentity(c.identities[0])
	if err != nil {
		t.Fatal(err)
	}
	adminKey, err := c.admin.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]nats.Option{
		"nobody":                        nil,
		"a user name":                   {nats.UserInfo("unibus", "p@ss:w/rd")},
		"a token":                       {nats.Token("x")},
		"an unknown key":                {as(t, stranger)},
		"the internal identity":         {as(t, internal), nats.Name("membershipd")},
		"the internal identity for SYS": {as(t, internal), nats.Name("membershipd-system")},
		"another's signature":           {nats.Nkey(adminKey, stranger.Sign)},
		"a signature of something else": {nats.Nkey(adminKey, func([]byte) ([]byte, error) { return c.admin.Sign([]byte("x")) })},
	} {
		if _, err := connect(t, addr, opts...); err == nil {
			t.Errorf("%s gets in", name)
		}
	}
	if _, err := connect(t, addr, as(t, c.user)); err != nil {
		t.Errorf("a static key does not get in: %v", err)
	}
}

// testOutOfReach: an administrator of the control API is still only a user of account BUS.
func (c *testCluster) testOutOfReach(t *testing.T, addr string) {
	nc, err := connect(t, addr, as(t, c.admin))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := js.Stream(t.Context(), "KV_"+membershipd.BucketSettings); err == nil {
		t.Errorf("the settings' stream can be seen: %+v", s.CachedInfo())
	}
	sub, err := nc.SubscribeSync("unibus.internal.>")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := sub.NextMsg(waitShort); err == nil { // a heartbeat is due four times a second
		t.Errorf("an internal message was heard: %s", m.Subject)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: membershipd.BucketSettings, Replicas: 3}); err != nil {
		t.Errorf("a user's own bucket of the same name: %v", err)
	}
}

// testForged: a user who is no administrator says in a header that he is, and has the server publish for him.
func (c *testCluster) testForged(t *testing.T, addr string) {
	nc, err := connect(t, addr, as(t, c.user), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	adminKey, err := c.admin.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := json.Marshal(map[string]string{"acc": "BUS", "user": adminKey, "kind": "Client"})
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"name":"forged","value":"x"}`)
	for _, header := range []string{"Nats-Request-Info", "nats-request-info", "X-Nats-Request-Info"} {
		m := &nats.Msg{Subject: control.SubjectSettingsPut, Data: body, Header: nats.Header{header: {string(forged), string(forged)}}}
		if resp, err := nc.RequestMsg(m, waitShort); err == nil && resp.Header.Get(micro.ErrorCodeHeader) == "" {
			t.Errorf("accepted with %s: %s", header, resp.Data)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{ // a stream that repeats what it gets, in the server's own name
		Name: "TRICK", Subjects: []string{"trick"}, RePublish: &jetstream.RePublish{Source: "trick", Destination: control.SubjectSettingsPut}})
	if err == nil {
		if _, err := js.Publish(t.Context(), "trick", body); err != nil {
			t.Logf("publish to the trick: %v", err)
		}
	}
	_, err = c.dial(t, c.admin, 0).Get(t.Context(), "forged")
	wantCode(t, err, control.NotFound)
}

func (c *testCluster) testDiscovery(t *testing.T, addr string) {
	nc, err := connect(t, addr, as(t, c.user))
	if err != nil {
		t.Fatal(err)
	}
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.PublishRequest("$SRV.INFO.unibus", inbox, nil); err != nil {
		t.Fatal(err)
	}
	for i := range testShape {
		m, err := sub.NextMsg(waitLong / 10)
		if err != nil {
			t.Fatalf("answer %d: %v", i+1, err)
		}
		if !strings.Contains(string(m.Data), control.SubjectScale) {
			t.Errorf("answer %d: %s", i+1, m.Data)
		}
	}
}

// testSecrets: the identity is private, and no log has the password or a seed.
func (c *testCluster) testSecrets(t *testing.T) {
	for i, path := range c.identities {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		seed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[i].stop(t)
		log := c.nodes[i].log.String()
		for _, secret := range []string{"p@ss:w/rd", "p%40ss", strings.TrimSpace(string(seed))} {
			if strings.Contains(log, secret) {
				t.Errorf("the log of %s has a secret", c.configs[i].Name)
			}
		}
	}
}
