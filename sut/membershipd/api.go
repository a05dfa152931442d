package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
	"github.com/unibus/unibus/sut/membershipd/internal/mutant"
)

const (
	apiName     = "unibus"
	apiVersion  = "1.0.0"
	apiTimeout  = 2 * time.Second // for everything that one request needs
	listReaders = 16

	// A write that is under way on the same setting makes JetStream refuse a conditional one before anything is stored. That is
	// neither a conflict nor an outage: it is over within milliseconds.
	busyWait = 3 * time.Millisecond

	writesPerKey    = 2 // of one setting, under way at once on one node
	maxSettingName  = 128
	maxSettingValue = 32 << 10

	// requestInfo is the header in which the embedded server tells who asks. It replaces what the caller may have sent.
	requestInfo = "Nats-Request-Info"
)

// Headers of a stored setting: they are written together with it, so that the audit trail can be made from the bucket at any later time.
const (
	headerWho  = "Unibus-Who"
	headerWhat = "Unibus-What"
	headerNode = "Unibus-Node"
	headerID   = "Unibus-Id" // of one attempt
	headerUser = "Unibus-User"
)

var settingName = regexp.MustCompile(`^[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*$`)

// api answers the control API on this node.
type api struct {
	js       jsAPI
	log      *slog.Logger
	node     string
	size     int
	identify func(publicKey string) (caller, error)
	reserved func(publicKey string) bool // a key that logs in without a record
	plane    *accessPlane
	follow   [access.NumBuckets]*follower
	writing  [access.NumBuckets]chan struct{} // held while this node writes to the bucket
	health   func() snapshot
	status   func() health.Status
	want     *wanted
	wantSet  func(n int) // the cluster-wide number of replicas was recorded
	wrote    func()      // a setting was changed: there is something to audit
	count    func(endpoint, code string, took time.Duration)
	slots    *requestSlots
	trail    *auditor
	keys     keySlots // of the settings
	fills    fills
}

type handler func(ctx context.Context, who caller, data []byte) (any, error)

// caller is who asks, as the directories know it at this moment.
type caller struct {
	key     string // public
	name    string // "" for a key without a record
	control string // access.ControlNone, ControlRead or ControlWrite
	need    need   // what the request takes
	own     bool   // this node itself: nobody takes its rights away
}

func (c caller) headers(what, node string) nats.Header {
	h := nats.Header{headerWho: {c.key}, headerWhat: {what}, headerNode: {node}}
	if c.name != "" {
		h.Set(headerUser, c.name)
	}
	return h
}

// need is what a caller must be allowed to call an endpoint at all. Some look closer themselves.
type need int

const (
	needNothing need = iota // but to be known
	needRead
	needWrite
)

func (c caller) may(n need) bool {
	switch n {
	case needNothing:
		return true
	case needRead:
		return c.control == access.ControlRead || c.control == access.ControlWrite
	}
	return c.control == access.ControlWrite
}

type endpoint struct {
	subject string
	need    need
	handle  handler
}

func (a *api) endpoints() []endpoint {
	return append([]endpoint{
		{control.SubjectSettingsPut, needWrite, a.put},
		{control.SubjectSettingsGet, needRead, a.get},
		{control.SubjectSettingsList, needRead, a.list},
		{control.SubjectScale, needWrite, a.scale},
		{control.SubjectStatus, needNothing, func(context.Context, caller, []byte) (any, error) { return a.status(), nil }},
	}, a.userEndpoints()...)
}

// serve registers the service; it answers until the returned service is stopped.
func (a *api) serve(ctx context.Context, nc *nats.Conn) (micro.Service, error) {
	a.slots = newRequestSlots(a.node)
	svc, err := micro.AddService(nc, micro.Config{
		Name: apiName, Version: apiVersion, QueueGroup: apiName, Description: "unibus control API",
		Metadata: map[string]string{"node": a.node},
	})
	if err != nil {
		return nil, fmt.Errorf("register the control API: %w", err)
	}
	for _, e := range a.endpoints() {
		name := strings.ReplaceAll(strings.TrimPrefix(e.subject, "unibus.v1."), ".", "-")
		h := micro.HandlerFunc(func(r micro.Request) { a.dispatch(ctx, r, name, e) })
		err := svc.AddEndpoint(name, h, micro.WithEndpointSubject(e.subject))
		if err == nil {
			err = svc.AddEndpoint(name+"-at-"+a.node, h, micro.WithEndpointSubject(control.At(e.subject, a.node)), micro.WithEndpointQueueGroupDisabled())
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("register %s: %w", e.subject, err), svc.Stop())
		}
	}
	return svc, nil
}

// dispatch answers each request on its own: one that waits for a quorum must not hold up the others. Who asks is known from this node's own memory,
// so that it comes first and decides whose slot the request takes.
func (a *api) dispatch(ctx context.Context, r micro.Request, name string, e endpoint) {
	start := time.Now()
	who, err := a.authorized(nats.Header(r.Headers()), e.need)
	var leave func()
	if err == nil {
		leave, err = a.slots.take(who)
	}
	if err != nil {
		a.answer(r, name, start, nil, err)
		return
	}
	go func() {
		defer leave()
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		resp, err := e.handle(ctx, who, r.Data())
		a.answer(r, name, start, resp, err)
	}()
}

// authorized checks every call: the permissions that a connection was given when it was opened are only the first line.
func (a *api) authorized(h nats.Header, n need) (caller, error) {
	key, err := callerKey(h)
	if err != nil {
		return caller{}, control.Errorf(control.Denied, "the caller is not known: %v", err)
	}
	return a.still(caller{key: key, need: n})
}

// still looks up who asks as of now. A request may wait for others, and lose races: what it may is looked at again at each decision.
func (a *api) still(who caller) (caller, error) {
	if who.own {
		return who, nil
	}
	now, err := a.identify(who.key)
	if err != nil {
		return caller{}, control.Errorf(control.Denied, "the caller is not known: %v", err)
	}
	if now.need = who.need; !now.may(now.need) {
		return caller{}, control.Errorf(control.Denied, "this key may not ask for that")
	}
	return now, nil
}

// callerKey reads who asks from what the embedded server has written into the request.
func callerKey(h nats.Header) (string, error) {
	var values []string
	for k, v := range h {
		if strings.EqualFold(k, requestInfo) {
			values = append(values, v...)
		}
	}
	if len(values) != 1 {
		return "", fmt.Errorf("%d statements of who it is", len(values))
	}
	var info struct {
		Account string `json:"acc"`
		User    string `json:"user"`
		Kind    string `json:"kind"`
	}
	if err := json.Unmarshal([]byte(values[0]), &info); err != nil {
		return "", fmt.Errorf("decode who it is: %w", err)
	}
	if info.Account != accountBus || info.User == "" || info.Kind != "Client" {
		return "", errors.New("it is not a user's connection")
	}
	return info.User, nil
}

// answer publishes the reply itself: the micro package's own responders are for handlers that answer before they return.
func (a *api) answer(r micro.Request, name string, start time.Time, resp any, err error) {
	code := "ok"
	msg := &nats.Msg{Subject: r.Reply(), Header: nats.Header{}}
	if err == nil {
		msg.Data, err = json.Marshal(resp)
	}
	if err != nil {
		var e *control.Error
		if !errors.As(err, &e) {
			e = control.Errorf(control.Unknown, "%v", err)
		}
		code = string(e.Code)
		msg.Header.Set(micro.ErrorCodeHeader, code)
		msg.Header.Set(micro.ErrorHeader, oneLine(e.Message))
	}
	a.count(name, code, time.Since(start))
	if msg.Subject == "" {
		return // nobody wants to know
	}
	if err := a.js.nc.PublishMsg(msg); err != nil {
		a.log.Warn("answer a request", "endpoint", name, "error", err)
	}
}

// finish waits until every request that was taken is answered; later ones are refused.
func (a *api) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	a.slots.fill(ctx.Done())
}

// oneLine keeps a message within a header.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// decode refuses what it does not know: a field that is misspelt, or that a newer version has, may be the one that says on which condition to write.
func decode(data []byte, into any) error {
	if err := access.Decode(data, into); err != nil {
		return control.Errorf(control.Invalid, "the request is not the JSON that this call takes: %v", err)
	}
	return nil
}

func checkSettingName(name string) error {
	if len(name) > maxSettingName || !settingName.MatchString(name) {
		return control.Errorf(control.Invalid, "the name %q is not one: want letters, digits and -_=/ in parts joined by dots, at most %d", name, maxSettingName)
	}
	return nil
}

func (a *api) put(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.PutRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := checkSettingName(req.Name); err != nil {
		return nil, err
	}
	if strings.HasPrefix(req.Name, control.ReservedPrefix) {
		return nil, control.Errorf(control.Invalid, "names that begin with %q are reserved", control.ReservedPrefix)
	}
	if len(req.Value) > maxSettingValue {
		return nil, control.Errorf(control.Invalid, "the value has %d bytes, and %d is the limit", len(req.Value), maxSettingValue)
	}
	var expect *expectation
	if req.Expect != nil && mutant.Planted != mutant.CASIgnored {
		expect = &expectation{seq: *req.Expect}
	}
	if err := a.admits(BucketSettings, newMsg(keySubject(BucketSettings, req.Name), who.headers("settings.put", a.node), []byte(req.Value), nil)); err != nil {
		return nil, err
	}
	rev, err := a.write(ctx, who, "settings.put", req.Name, req.Value, expect)
	if err != nil {
		return nil, err
	}
	return control.PutResponse{Revision: rev}, nil
}

// write stores a setting once, and says exactly what is known about the outcome.
func (a *api) write(ctx context.Context, who caller, what, name, value string, expect *expectation) (uint64, error) {
	if why := a.settingsDown(); why != "" {
		return 0, control.Errorf(control.Unavailable, "%s", why)
	}
	id := nuid.Next()
	if mutant.Planted == mutant.AcksBeforeMajority && expect == nil {
		info, err := a.js.streamInfo(ctx, bucketStream(BucketSettings))
		return info.State.LastSeq + 1, errors.Join(err, a.js.nc.PublishMsg(newMsg(keySubject(BucketSettings, name), who.headers(what, a.node), []byte(value), nil)))
	}
	leave, err := a.settingRoom(ctx, name)
	if err != nil {
		return 0, err
	}
	defer leave()
	if who, err = a.still(who); err != nil { // it may have waited
		return 0, err
	}
	header := who.headers(what, a.node)
	header.Set(headerID, id)
	again := func() bool { _, err := a.still(who); return err == nil }
	seq, err := a.publishWhenIdle(ctx, keySubject(BucketSettings, name), header, []byte(value), expect, again)
	if hasCode(err, codeWrongSequence) {
		seq, err = a.refused(ctx, name, id, expect.seq)
	}
	if isFull(err) {
		seq, err = a.noRoomForSetting(ctx, name, id)
	}
	var typed *control.Error
	switch {
	case err == nil:
		a.wrote()
		return seq, nil
	case errors.As(err, &typed):
		return 0, err
	case hasCode(err, codeInProcess):
		return 0, control.Errorf(control.Unknown, "other writes to %q stood in the way of this one; it may have been done", name)
	case certainlyNotSent(err):
		return 0, control.Errorf(control.Unavailable, "the settings have no leader")
	case errors.Is(err, context.DeadlineExceeded):
		return 0, control.Errorf(control.Unknown, "no majority confirmed the write within %s; it may still take effect", apiTimeout)
	}
	return 0, control.Errorf(control.Unknown, "the write was not confirmed: %v", err)
}

// settingRoom waits until one more revision of a setting leaves the audit trail whole. Settings are also written without a condition, so it has to
// allow for the writes that are under way on all nodes.
func (a *api) settingRoom(ctx context.Context, name string) (leave func(), err error) {
	leave, ok := a.keys.enter(ctx, name)
	if !ok {
		return nil, control.Errorf(control.Unavailable, "other writes to %q did not let this one through", name)
	}
	if err := a.trail.room(ctx, BucketSettings, name, historyOf(BucketSettings)-a.size*writesPerKey); err != nil {
		leave()
		if _, typed := errors.AsType[*control.Error](err); typed {
			return nil, err
		}
		return nil, unreadable(err)
	}
	return leave, nil
}

// refused finds out what became of a conditional write that was refused. A leader that has been deposed and does not know it yet takes the same
// request as the real one, and its refusal may come first. So a read that a majority has confirmed decides: behind it, the write is either
// among the setting's revisions, where its id is looked for, or it was not done.
func (a *api) refused(ctx context.Context, name, id string, expected uint64) (uint64, error) {
	now, err := a.read(ctx, name)
	if err != nil {
		return 0, control.Errorf(control.Unknown, "the write was refused, by a leader that no majority confirms; it may have been done")
	}
	for after := expected; after < now.seq; {
		m, err := a.js.next(ctx, bucketStream(BucketSettings), after+1, keySubject(BucketSettings, name))
		if err != nil {
			return 0, control.Errorf(control.Unknown, "the write was refused, and the revisions since cannot be read: %v", err)
		}
		if m.header.Get(headerID) == id {
			return m.seq, nil
		}
		if m.seq == 0 {
			break
		}
		after = m.seq
	}
	if now.seq == expected {
		return 0, control.Errorf(control.Unavailable, "a leader that is one no more refused the write; it was not done")
	}
	return 0, control.Errorf(control.Conflict, "the setting %q does not have the expected revision %d", name, expected)
}

// publishWhenIdle repeats a conditional write only while JetStream says, before it stores anything, that another one is under way, and while again says that it
// may be repeated.
func (a *api) publishWhenIdle(ctx context.Context, subject string, h nats.Header, data []byte, expect *expectation, again func() bool) (uint64, error) {
	for {
		seq, err := a.js.publish(ctx, subject, h, data, expect)
		if !hasCode(err, codeInProcess) || !sleep(ctx, busyWait/2+rand.N(busyWait)) || !again() {
			return seq, err
		}
	}
}

// always is for reads, which take no effect.
func always() bool { return true }

// sleep returns false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// settingsDown says why nothing can be written, if this node knows that before it sends anything.
func (a *api) settingsDown() string { return a.bucketDown(BucketSettings, "settings") }

func (a *api) bucketDown(bucket, word string) string {
	s := a.health()
	if s.at.IsZero() || !s.facts.Internal {
		return "the node is starting"
	}
	if s.Quorum.Have < s.Quorum.Need {
		return fmt.Sprintf("no quorum: %d of %d nodes, need %d", s.Quorum.Have, s.facts.ClusterSize, s.Quorum.Need)
	}
	for _, b := range s.facts.Buckets {
		if b.Name == bucket && b.Local && b.Replicas > 1 && b.Group.Leader == "" {
			return "the " + word + " have no leader"
		}
	}
	return ""
}

func (a *api) get(ctx context.Context, _ caller, data []byte) (any, error) {
	var req control.GetRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if err := checkSettingName(req.Name); err != nil {
		return nil, err
	}
	m, err := a.read(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if m.seq == 0 {
		return nil, control.Errorf(control.NotFound, "there is no setting %q", req.Name)
	}
	return control.Setting{Name: req.Name, Value: string(m.data), Revision: m.seq}, nil
}

// read is linearizable. A stream's leader answers reads on its own, also for seconds after the others have elected another one; so what
// it said is confirmed by a write to the same Raft group which takes effect only if the setting still has that revision.
func (a *api) read(ctx context.Context, name string) (storedMsg, error) {
	if why := a.settingsDown(); why != "" {
		return storedMsg{}, control.Errorf(control.Unavailable, "%s", why)
	}
	subject := keySubject(BucketSettings, name)
	for {
		m, err := a.js.last(ctx, bucketStream(BucketSettings), subject)
		if err != nil {
			return storedMsg{}, unreadable(err)
		}
		_, err = a.publishWhenIdle(ctx, fenceSettings, nil, []byte(a.node), &expectation{seq: m.seq, subject: subject}, always)
		if err == nil {
			return m, nil
		}
		if !hasCode(err, codeWrongSequence) || ctx.Err() != nil {
			return storedMsg{}, unreadable(err)
		}
		if !sleep(ctx, busyWait/2+rand.N(busyWait)) {
			return storedMsg{}, unreadable(ctx.Err())
		}
	}
}

// unreadable is the refusal of a read: it has no effect, so it is certainly not done.
func unreadable(err error) error {
	switch {
	case certainlyNotSent(err):
		return control.Errorf(control.Unavailable, "the settings have no leader")
	case errors.Is(err, context.DeadlineExceeded):
		return control.Errorf(control.Unavailable, "no majority confirmed the read within %s", apiTimeout)
	}
	return control.Errorf(control.Unavailable, "the settings cannot be read: %v", err)
}

// list reads every setting from the stream's leader. Each is current; together they are not one moment.
func (a *api) list(ctx context.Context, _ caller, _ []byte) (any, error) {
	if why := a.settingsDown(); why != "" {
		return nil, control.Errorf(control.Unavailable, "%s", why)
	}
	if _, err := a.js.publish(ctx, fenceSettings, nil, []byte(a.node), nil); err != nil {
		return nil, unreadable(err) // a leader that has no majority any more must not answer
	}
	prefix := keySubject(BucketSettings, "")
	subjects, err := a.js.subjects(ctx, bucketStream(BucketSettings), keySubject(BucketSettings, ">"))
	if err != nil {
		return nil, unreadable(err)
	}
	sort.Strings(subjects)
	settings := make([]control.Setting, len(subjects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listReaders)
	for i, s := range subjects {
		g.Go(func() error {
			m, err := a.js.last(ctx, bucketStream(BucketSettings), s)
			settings[i] = control.Setting{Name: strings.TrimPrefix(s, prefix), Value: string(m.data), Revision: m.seq}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, unreadable(err)
	}
	return control.ListResponse{Settings: settings}, nil
}

// scale records how many replicas are wanted; the bootstrap loop does the rest.
func (a *api) scale(ctx context.Context, who caller, data []byte) (any, error) {
	var req control.ScaleRequest
	if err := decode(data, &req); err != nil {
		return nil, err
	}
	if !slices.Contains([]int{1, 3, 5}, req.Replicas) || req.Replicas > a.size {
		return nil, control.Errorf(control.Invalid, "%d replicas: want 1, 3 or 5, and not more than the %d nodes", req.Replicas, a.size)
	}
	m, err := a.read(ctx, control.SettingReplicas)
	if err != nil {
		return nil, err
	}
	recorded := 0
	if m.seq > 0 {
		if recorded, err = strconv.Atoi(string(m.data)); err != nil {
			return nil, control.Errorf(control.Invalid, "the setting %s is %q, which is not a number", control.SettingReplicas, m.data)
		}
	}
	if now := max(recorded, a.want.get()); req.Replicas < now {
		return nil, control.Errorf(control.Invalid, "the buckets have %d replicas, and they are never scaled down", now)
	}
	if req.Replicas != recorded {
		if _, err := a.write(ctx, who, "cluster.scale", control.SettingReplicas, strconv.Itoa(req.Replicas), &expectation{seq: m.seq}); err != nil {
			return nil, err
		}
	}
	a.wantSet(req.Replicas)
	return control.ScaleRequest{Replicas: req.Replicas}, nil
}
