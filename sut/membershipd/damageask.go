package membershipd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	subjectReplicas   = "unibus.internal.copies" // in CONTROL, which no user can reach
	replicasInterval  = time.Second              // between two questions
	replicasPatience  = 800 * time.Millisecond   // for all answers to one
	stuckQuestions    = 3                        // in a row whose answers say that waiting has no end: the others are to hear of it, too
	replicasQuestions = 10_000                   // targets in one question that are answered
)

// replicaQuestion is asked by a node that is about to lose its copies of some groups.
type replicaQuestion struct {
	Node    string   `json:"node"`
	Targets []string `json:"targets"` // "ACCOUNT/STREAM", or the name of a Raft group
}

// replicaAnswer is what another node knows of them.
type replicaAnswer struct {
	Node  string               `json:"node"`
	Held  bool                 `json:"held"`  // its own store is damaged, and it waits as who asks does
	Ready bool                 `json:"ready"` // it takes part in a quorum, and its copies of the control plane are current
	Words map[string]groupWord `json:"words"` // of those targets that it holds itself
}

// groupWord is one node's word on a Raft group.
type groupWord struct {
	Group   string `json:"group"`  // "" for a stream with one replica
	Stream  string `json:"stream"` // "ACCOUNT/STREAM"; "" for a consumer's group
	Leader  bool   `json:"leader"` // this node leads it
	Size    int    `json:"size"`
	Covered int    `json:"covered"` // by its leader: members, other than who asks, that have all that was committed and were heard of lately
}

// answerReplicas is asked by others.
func answerReplicas(srv *server.Server, name string, ready func() bool, m *nats.Msg) {
	var q replicaQuestion
	if json.Unmarshal(m.Data, &q) != nil || q.Node == name || len(q.Targets) > replicasQuestions {
		return
	}
	body, err := json.Marshal(replicaAnswer{Node: name, Ready: ready(), Words: replicaWords(srv, q)})
	if err == nil {
		_ = m.Respond(body) // who asks asks again
	}
}

func replicaWords(srv *server.Server, q replicaQuestion) map[string]groupWord {
	groups := allGroups(srv)
	streams := map[string]groupWord{} // by stream and by group
	if j, err := srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true, RaftGroups: true}); err == nil {
		for _, acc := range j.AccountDetails {
			for _, s := range acc.Streams {
				w := groupWord{Group: s.RaftGroup, Stream: acc.Name + "/" + s.Name, Size: 1}
				streams[w.Stream], streams[w.Group] = w, w
			}
		}
	}
	words := map[string]groupWord{}
	for _, target := range q.Targets {
		w, held := streams[target]
		if !held {
			w = groupWord{Group: target}
		}
		if g, ok := groups[w.Group]; ok {
			w.fill(g, q.Node)
			held = true
		}
		if held {
			words[target] = w
		}
	}
	return words
}

func allGroups(srv *server.Server) map[string]server.RaftzGroup {
	all := map[string]server.RaftzGroup{}
	for _, account := range []string{accountSystem, accountControl, accountBus} {
		if byAccount := srv.Raftz(&server.RaftzOptions{AccountFilter: account}); byAccount != nil {
			for _, groups := range *byAccount {
				for name, g := range groups {
					all[name] = g
				}
			}
		}
	}
	return all
}

func (w *groupWord) fill(g server.RaftzGroup, without string) {
	w.Size, w.Leader = g.Size, g.State == stateLeader
	if !w.Leader {
		return
	}
	w.Covered = 1
	for _, p := range g.Peers {
		age, err := time.ParseDuration(p.LastSeen)
		if p.Name != "" && p.Name != without && err == nil && age <= health.SeenLimit && p.LastReplicatedIndex >= g.Committed {
			w.Covered++
		}
	}
}

// answerHeld is the answer of a node that asks itself.
func answerHeld(name string, m *nats.Msg) {
	var q replicaQuestion
	if json.Unmarshal(m.Data, &q) != nil || q.Node == name {
		return
	}
	if body, err := json.Marshal(replicaAnswer{Node: name, Held: true}); err == nil {
		_ = m.Respond(body) // who asks asks again
	}
}

// askOthers asks until a majority without this node holds what is damaged, and returns the directories that may go; nil when ctx ended first, and an empty
// list when none has to go (see deadlocked).
func (d *Daemon) askOthers(ctx context.Context, s secrets, found []damage, waits func(why string)) ([]string, error) {
	nc, stop, err := d.quietServer(s)
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := nc.Subscribe(subjectReplicas, func(m *nats.Msg) { answerHeld(d.cfg.Name, m) }); err != nil {
		return nil, fmt.Errorf("listen for questions about replicas: %w", err)
	}
	t := time.NewTicker(replicasInterval)
	defer t.Stop()
	last, stuck := "", 0
	for {
		said := askReplicas(ctx, nc, d.cfg.Name, found)
		dirs, wait := rebuildable(found, said, d.cfg.Name, len(d.cfg.Routes))
		if wait == "" {
			return dirs, nil
		}
		if !deadlocked(found, said, d.cfg.Name, len(d.cfg.Routes)) {
			stuck = 0
		} else if stuck++; stuck == stuckQuestions {
			return []string{}, nil
		}
		waits(wait)
		if wait != last {
			d.log.Warn("what is to be fetched again stays where it is", "why", wait)
			last = wait
		}
		select {
		case err := <-d.fatal:
			return nil, err
		case <-ctx.Done():
			return nil, nil
		case <-t.C:
		}
	}
}

// waitingSuffix is behind the name of a server that is not the node yet, and makes it one that no node can have. Under the node's own name the others
// would forget what they know of its storage, which is enough to give it a replica of a new stream while it is away, and refuse every stream that needs one.
const waitingSuffix = "~waits"

// quietServer is a server that has no JetStream and takes no clients. By means of it a node that does not start yet asks the others over the routes, which
// are authenticated and encrypted as ever. stop ends it, and frees its ports.
func (d *Daemon) quietServer(s secrets) (nc *nats.Conn, stop func(), err error) {
	opts, err := serverOptions(d.cfg, s.routePass, d.tls)
	if err != nil {
		return nil, nil, err
	}
	opts.HTTPPort = 0
	opts.ServerName += waitingSuffix
	// Without a listener for clients the embedded server never opens its routes. This one lets in nobody, and nobody is told of it.
	opts.Host, opts.Port, opts.ClientAdvertise, opts.Cluster.NoAdvertise = "127.0.0.1", server.RANDOM_PORT, "", true
	auth := &authenticator{log: d.log, outcome: func(bool) {}, directories: []directory{internalDirectory{s.publicKey}}}
	opts.CustomClientAuthentication = auth
	// It must say of itself that it has JetStream, as this node will: others that are being started would take the cluster for one that has fewer nodes
	// with JetStream, for good.
	opts.JetStream = true
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errServer, err)
	}
	opts.JetStream = false // the server shares the options, and looks at this one when it is started
	auth.account = srv.LookupAccount
	srv.SetLoggerV2(&serverLog{log: d.log.With("from", "nats-server without JetStream"), fatal: d.fatal}, false, false, false)
	srv.Start()
	shut := func() {
		srv.Shutdown()
		srv.WaitForShutdown() // its ports are needed
	}
	if nc, err = connectInternal(srv, s, internalName); err != nil {
		shut()
		return nil, nil, err
	}
	return nc, func() {
		nc.Close()
		shut()
	}, nil
}

func askReplicas(ctx context.Context, nc *nats.Conn, self string, found []damage) (said []replicaAnswer) {
	q := replicaQuestion{Node: self}
	for _, d := range found[:min(len(found), replicasQuestions)] {
		q.Targets = append(q.Targets, d.Target)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return nil
	}
	for _, m := range askAll(ctx, nc, subjectReplicas, body) {
		var a replicaAnswer
		if json.Unmarshal(m.Data, &a) == nil {
			said = append(said, a)
		}
	}
	return said
}

// askAll asks whoever listens, and gathers the answers for replicasPatience.
func askAll(ctx context.Context, nc *nats.Conn, subject string, body []byte) (answers []*nats.Msg) {
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to close
	if nc.PublishRequest(subject, inbox, body) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, replicasPatience)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return answers
		}
		answers = append(answers, m)
	}
}

// auditRebuilds tells the audit trail what was given up before this start, once.
func (d *Daemon) auditRebuilds(ctx context.Context, js jsAPI, s secrets) {
	t := time.NewTicker(auditInterval)
	defer t.Stop()
	for i, g := range d.guard.moved {
		body, err := json.Marshal(AuditRecord{Who: s.publicKey, What: "store.rebuild", When: d.started.UTC(), Node: d.cfg.Name, Bucket: "store", Name: printable(g.String())})
		if err != nil {
			return
		}
		once := nats.Header{nats.MsgIdHdr: {d.cfg.Name + "-" + strconv.FormatInt(d.started.UnixNano(), 36) + "-" + strconv.Itoa(i)}}
		for {
			try, cancel := context.WithTimeout(ctx, auditTimeout)
			_, err := js.publish(try, auditSubject("store"), once, body, nil)
			cancel()
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}
}
