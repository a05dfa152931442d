package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of what users try.
const (
	aclAnswer  = 3 * time.Second // for the effect of something that was not refused
	aclWitness = 2 * time.Second // for a core message to a client of the same node
	aclExpires = 5 * time.Second // consumers that users make go away by themselves
)

// The streams and buckets that users try to use.
const (
	aclStream  = "ACL_ORDERS"
	aclVictim  = "ACL_VICTIM"  // that nobody needs
	aclScratch = "ACL_SCRATCH" // that administrators make
	aclBucket  = "acl-kv"
	aclForeign = "acl-other"
)

// errUndecided means that nothing proves either answer.
var errUndecided = errors.New("no proof of either answer")

// agent is one user with one key at one node. It keeps its connection, over changes of what the user may do, as long as the node leaves it alone.
type agent struct {
	env     *Env
	user    string
	pair    nkeys.KeyPair
	key     string
	node    cluster.Node
	witness *witness

	mu  sync.Mutex
	w   *wire
	sid int
}

// aclSerial makes ids and reply subjects unique in this process.
var aclSerial atomic.Int64

func newAgent(e *Env, user string, pair nkeys.KeyPair, v *witness) (*agent, error) {
	key, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("read the public key of %s: %w", user, err)
	}
	return &agent{env: e, user: user, pair: pair, key: key, node: v.node, witness: v}, nil
}

func (a *agent) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop()
}

func (a *agent) drop() {
	if a.w != nil {
		a.w.close()
		a.w = nil
	}
}

// login tries a connection of its own, which is closed again.
func (a *agent) login(ctx context.Context) history.Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop()
	return a.connect(ctx)
}

// connect logs in, recorded, and listens to the user's own inbox, recorded too.
func (a *agent) connect(ctx context.Context) history.Outcome {
	out := a.record(check.ActLogin, func() error {
		w, err := a.env.dialWire(ctx, a.node, a.pair, "as-"+a.user)
		if err == nil {
			a.w, a.sid = w, 1
		}
		return err
	})
	if out != history.OK {
		return out
	}
	var refused bool
	a.record(check.ActInbox+" "+a.user, func() error {
		r, err := a.w.trip(fmt.Sprintf("SUB %s.> 1\r\n", a.inbox()), nil)
		if r != "" {
			refused = true
			return &denial{r}
		}
		return err
	})
	if refused {
		a.drop()
	}
	return out
}

func (a *agent) inbox() string { return "_INBOX_" + a.user }

// denial is a node's word that it does not allow something.
type denial struct{ text string }

func (r *denial) Error() string { return r.text }

// record records one attempt. An error that is a denial is one; every other proves nothing, and ends the connection.
func (a *agent) record(key string, f func() error) history.Outcome {
	op := history.Op{Client: "as-" + a.user, Node: string(a.node.ID()), Kind: history.Access, Target: a.user, Key: key, Value: a.key}
	a.env.Recorder.Invoke(&op)
	err := f()
	var r *denial
	switch {
	case err == nil:
		op.Outcome = history.OK
	case errors.As(err, &r):
		op.Outcome, op.Err = history.Failed, cut(r.text, maxErrWord)
	case errors.Is(err, errLoginRefused):
		op.Outcome, op.Err = history.Failed, "authorization"
	default:
		op.Outcome, op.Err = history.Unknown, cut(err.Error(), maxErrWord)
		if !errors.Is(err, errUndecided) {
			a.drop()
		}
	}
	a.env.Recorder.Complete(&op)
	a.env.count(op.Outcome)
	return op.Outcome
}

// try does one thing as the user, logging in first if need be. ok is false when the login stood in the way.
func (a *agent) try(ctx context.Context, key string) (out history.Outcome, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if key == check.ActLogin {
		a.drop()
		return a.connect(ctx), true
	}
	if a.w == nil {
		if out := a.connect(ctx); out != history.OK || a.w == nil {
			return out, false
		}
	}
	return a.record(key, func() error { return a.attempt(key) }), true
}

// attempt does it, and says nil only with proof that it was allowed.
func (a *agent) attempt(key string) error {
	action, obj, _ := strings.Cut(key, " ")
	id := fmt.Sprintf("acl-%d", aclSerial.Add(1))
	switch action {
	case check.ActPublish:
		return a.publish(obj, id)
	case check.ActSubscribe:
		return a.subscribe(obj, concrete(obj), id)
	case check.ActInbox:
		return a.subscribe("_INBOX_"+obj+".>", "_INBOX_"+obj+".x", id)
	case check.ActRequest:
		_, err := a.request(obj, "", []byte(id))
		return err
	case check.ActStore:
		return a.acked(a.request(obj, "", []byte(id)))
	case check.ActKVGet:
		bucket, k, _ := strings.Cut(obj, ".")
		return a.found(a.request(fmt.Sprintf("$JS.API.DIRECT.GET.KV_%s.$KV.%s.%s", bucket, bucket, k), "", nil))
	case check.ActKVPut, check.ActRollup:
		header := ""
		if action == check.ActRollup {
			header = "Nats-Rollup: all"
		}
		return a.acked(a.request("$KV."+obj, header, []byte(id)))
	case check.ActInfo:
		return a.api(a.request("$JS.API.STREAM.INFO."+obj, "", nil))
	case check.ActConsume:
		return a.api(a.request("$JS.API.CONSUMER.CREATE."+obj+"."+id, "", consumer(obj, id, "")))
	case check.ActDivert:
		return a.diverted(a.request("$JS.API.CONSUMER.CREATE."+obj, "", consumer(obj, "", "_INBOX_victim."+id)))
	case check.ActManage:
		return a.manage(obj)
	case check.ActRead, check.ActWrite:
		return a.control(a.request("unibus.v1."+obj, "", []byte("{}")))
	case check.ActStatus:
		return a.control(a.request("unibus.v1.cluster.status", "", []byte("{}")))
	}
	return fmt.Errorf("no such action: %q", key)
}

// concrete is a subject that matches the pattern.
func concrete(pattern string) string {
	ts := strings.Split(pattern, ".")
	for i, t := range ts {
		switch t {
		case "*":
			ts[i] = "w"
		case ">":
			ts[i] = "w.w"
		}
	}
	return strings.Join(ts, ".")
}

// consumer asks for an ephemeral consumer in memory.
func consumer(stream, name, deliver string) []byte {
	cfg := map[string]any{"ack_policy": "none", "deliver_policy": "new", "mem_storage": true, "num_replicas": 1, "inactive_threshold": aclExpires.Nanoseconds()}
	if name != "" {
		cfg["name"] = name
	}
	if deliver != "" {
		cfg["deliver_subject"] = deliver
	}
	b, err := json.Marshal(map[string]any{"stream_name": stream, "config": cfg})
	if err != nil {
		return nil // plain values always encode
	}
	return b
}

// publish is allowed when a witness at the same node saw it.
func (a *agent) publish(subject, id string) error {
	seen, forget, listening := a.witness.expect(id)
	defer forget()
	refused, err := a.w.trip(pub(subject, "", "", []byte(id)), nil)
	switch {
	case refused != "":
		select {
		case <-seen:
			return nil // refused, and delivered all the same: that counts
		default:
			return &denial{refused}
		}
	case err != nil:
		return err
	case !listening:
		return fmt.Errorf("%w: the witness is away", errUndecided)
	}
	t := time.NewTimer(aclWitness)
	defer t.Stop()
	select {
	case <-seen:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: not refused, and the witness did not see it", errUndecided)
	}
}

// subscribe is allowed when something that a witness at the same node publishes arrives.
func (a *agent) subscribe(subject, sample, id string) error {
	a.sid++
	sid := a.sid
	defer func() {
		if a.w != nil {
			_ = a.w.send(fmt.Sprintf("UNSUB %d\r\n", sid)) // a dead connection has no subscriptions
		}
	}()
	refused, err := a.w.trip(fmt.Sprintf("SUB %s %d\r\n", subject, sid), nil)
	switch {
	case refused != "":
		return &denial{refused}
	case err != nil:
		return err
	case !a.witness.publish(sample, id):
		return fmt.Errorf("%w: the witness is away", errUndecided)
	}
	_, err = a.w.await(aclWitness, func(m wireMsg) bool { return string(m.data) == id })
	return err
}

// request sends a request and returns the answer.
func (a *agent) request(subject, header string, body []byte) (wireMsg, error) {
	reply := fmt.Sprintf("%s.%d", a.inbox(), aclSerial.Add(1))
	var got *wireMsg
	refused, err := a.w.trip(pub(subject, reply, header, body), func(m wireMsg) {
		if m.subject == reply {
			got = &m
		}
	})
	switch {
	case refused != "":
		return wireMsg{}, &denial{refused}
	case err != nil:
		return wireMsg{}, err
	case got == nil:
		m, err := a.w.await(aclAnswer, func(m wireMsg) bool { return m.subject == reply })
		if err != nil {
			return m, err
		}
		got = &m
	}
	if strings.HasPrefix(got.header, "NATS/1.0 503") {
		return *got, fmt.Errorf("%w: nobody answers", errUndecided)
	}
	return *got, nil
}

// apiAnswer is what JetStream says.
type apiAnswer struct {
	Seq   uint64 `json:"seq"`
	Error *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

func (a *agent) answer(m wireMsg, err error) (apiAnswer, error) {
	var r apiAnswer
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(m.data, &r); err != nil {
		return r, fmt.Errorf("%w: an answer that is no JSON", errUndecided)
	}
	if r.Error != nil && r.Error.Code >= 500 {
		return r, fmt.Errorf("%w: %s", errUndecided, r.Error.Description)
	}
	return r, nil
}

// acked wants an acknowledgement.
func (a *agent) acked(m wireMsg, err error) error {
	r, err := a.answer(m, err)
	switch {
	case err != nil:
		return err
	case r.Error != nil:
		return fmt.Errorf("%w: %s", errUndecided, r.Error.Description)
	case r.Seq == 0:
		return fmt.Errorf("%w: no sequence", errUndecided)
	}
	return nil
}

// found wants an answer to a direct get, also one that there is no such key.
func (a *agent) found(m wireMsg, err error) error {
	if err != nil {
		return err
	}
	if !strings.Contains(m.header, "Nats-Sequence:") && !strings.HasPrefix(m.header, "NATS/1.0 404") {
		return fmt.Errorf("%w: %q", errUndecided, cut(m.header, maxErrWord))
	}
	return nil
}

// api wants an answer that is about the thing that was asked for, also one that it does not exist.
func (a *agent) api(m wireMsg, err error) error {
	_, err = a.answer(m, err)
	return err
}

// diverted is refused also by an answer that says so: the consumer was not made.
func (a *agent) diverted(m wireMsg, err error) error {
	r, err := a.answer(m, err)
	if err == nil && r.Error != nil {
		return &denial{r.Error.Description}
	}
	return err
}

// manage asks for what only administrators may do. obj is "create NAME", "delete NAME" or "purge NAME".
func (a *agent) manage(obj string) error {
	verb, name, _ := strings.Cut(obj, " ")
	var body []byte
	if verb == "create" {
		body = fmt.Appendf(nil, `{"name":%q,"subjects":["aclx.scratch"],"storage":"memory","num_replicas":1,"max_msgs":10}`, name)
	}
	return a.api(a.request("$JS.API.STREAM."+strings.ToUpper(verb)+"."+name, "", body))
}

// control wants an answer of the control API; every one but "denied" means that the call was let through. What is sent is not valid on purpose.
func (a *agent) control(m wireMsg, err error) error {
	if err != nil {
		return err
	}
	code := ""
	for l := range strings.SplitSeq(m.header, "\r\n") {
		if v, ok := strings.CutPrefix(l, "Nats-Service-Error-Code:"); ok {
			code = strings.TrimSpace(v)
		}
	}
	switch code {
	case "denied":
		return &denial{"denied"}
	case "unavailable", "unknown":
		return fmt.Errorf("%w: %s", errUndecided, code)
	}
	return nil
}
