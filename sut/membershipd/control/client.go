package control

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/unibus/unibus/sut/client"
	"github.com/unibus/unibus/sut/membershipd/health"
)

// Settings of the client's connection.
const (
	dialTimeout = 2 * time.Second // a person waits, perhaps for a node far away
	clientName  = "membershipd-cli"
	callTimeout = 10 * time.Second // of one call; a node answers in less than half of that
)

// Client calls the control API of a cluster. It is safe for concurrent use.
type Client struct {
	nc *nats.Conn

	mu      sync.Mutex
	waiting map[*waiter]struct{}
}

// waiter is a request that has not been answered yet.
type waiter struct {
	subject string
	cancel  context.CancelCauseFunc
}

// reads are the calls that change nothing, whatever became of them.
var reads = map[string]bool{
	SubjectSettingsGet: true, SubjectSettingsList: true, SubjectStatus: true, SubjectUsersList: true, SubjectUsersShow: true,
	SubjectRolesList: true, SubjectRolesShow: true, SubjectRoomsList: true, SubjectRoomsShow: true,
}

// errRefused ends the wait for an answer that cannot come: the server did not let the request through.
var errRefused = errors.New("the server refused the request")

// Dial connects to the first of the servers that answers, as the user whose key that is.
func Dial(ctx context.Context, o client.Options) (*Client, error) {
	c := &Client{waiting: map[*waiter]struct{}{}}
	if o.Name == "" {
		o.Name = clientName
	}
	if o.InboxPrefix == "" && o.Key != nil { // users read no other inbox than their own, which their key names as well as their name
		if public, err := o.Key.PublicKey(); err == nil {
			o.InboxPrefix = client.InboxPrefix(public)
		}
	}
	o.NATS = append(o.NATS[:len(o.NATS):len(o.NATS)], nats.Timeout(dialTimeout), nats.ErrorHandler(c.asyncError))
	conn, err := client.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	c.nc = conn.Conn
	return c, nil
}

// asyncError notices that the server did not let a request through: it says so only on the side, with the subject.
func (c *Client) asyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for w := range c.waiting {
		if strings.Contains(err.Error(), strconv.Quote(w.subject)) {
			w.cancel(errRefused)
		}
	}
}

// wait registers a request; done must be called when it is over.
func (c *Client) wait(ctx context.Context, subject string) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &waiter{subject: subject, cancel: cancel}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[w] = struct{}{}
	return ctx, func() {
		cancel(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, w)
	}
}

// Close ends the connection.
func (c *Client) Close() { c.nc.Close() }

// Put writes a setting; expect may be nil.
func (c *Client) Put(ctx context.Context, name, value string, expect *uint64) (uint64, error) {
	var resp PutResponse
	err := c.call(ctx, SubjectSettingsPut, PutRequest{Name: name, Value: value, Expect: expect}, &resp)
	return resp.Revision, err
}

// Get reads a setting.
func (c *Client) Get(ctx context.Context, name string) (Setting, error) {
	var s Setting
	err := c.call(ctx, SubjectSettingsGet, GetRequest{Name: name}, &s)
	return s, err
}

// List reads all settings.
func (c *Client) List(ctx context.Context) ([]Setting, error) {
	var resp ListResponse
	err := c.call(ctx, SubjectSettingsList, struct{}{}, &resp)
	return resp.Settings, err
}

// Scale records the wanted number of replicas.
func (c *Client) Scale(ctx context.Context, replicas int) (int, error) {
	var resp ScaleRequest
	err := c.call(ctx, SubjectScale, ScaleRequest{Replicas: replicas}, &resp)
	return resp.Replicas, err
}

// Status asks the node that the client is connected to for its view of the cluster.
func (c *Client) Status(ctx context.Context) (health.Status, error) {
	var s health.Status
	err := c.call(ctx, SubjectStatus, struct{}{}, &s)
	return s, err
}

// call asks the node that the client is connected to: one that hangs still has its place among those that answer for the cluster, until the others notice.
// Where that node does not answer at a subject of its own (a build from before there were any, or one that is about to stop) any node does. What a node
// was given is never sent again. Every error is an *Error.
func (c *Client) call(ctx context.Context, subject string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return Errorf(Invalid, "encode the request: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var msg *nats.Msg
	node := c.nc.ConnectedServerName()
	for _, at := range []string{At(subject, node), subject} {
		if msg, err = c.ask(ctx, at, body); !errors.Is(err, errRefused) && !errors.Is(err, nats.ErrNoResponders) {
			break
		}
	}
	switch {
	case errors.Is(err, errRefused):
		return Errorf(Denied, "this key may not call %s", subject)
	case errors.Is(err, nats.ErrNoResponders):
		return Errorf(Unavailable, "no node answers the control API")
	case err != nil && reads[subject]:
		return Errorf(Unavailable, "no answer from node %s: %v", node, err)
	case err != nil:
		return Errorf(Unknown, "no answer from node %s: %v", node, err)
	}
	if code := msg.Header.Get(micro.ErrorCodeHeader); code != "" {
		return &Error{Code: Code(code), Message: msg.Header.Get(micro.ErrorHeader)}
	}
	if err := json.Unmarshal(msg.Data, resp); err != nil {
		return Errorf(Unknown, "decode the answer: %v", err)
	}
	return nil
}

// ask sends one request. An error is errRefused where the server did not let it through.
func (c *Client) ask(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	ctx, done := c.wait(ctx, subject)
	defer done()
	msg, err := c.nc.RequestWithContext(ctx, subject, body)
	if err != nil && errors.Is(context.Cause(ctx), errRefused) {
		return nil, errRefused
	}
	return msg, err
}
