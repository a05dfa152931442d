package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of Adders.
const (
	addClients  = 6               // two whose home is each node
	addRate     = 3               // a second and client
	addOpen     = 4               // names that are tried at a time
	addTries    = 8               // for each name, before the next is opened
	addTimeout  = 8 * time.Second // above every bound of the daemon's: it is to say itself that it cannot
	addLogins   = 4               // side by side, at the end
	loginRounds = 40              // for a login without a certain answer
	listPage    = 500
)

// AddPrefix begins the names that Adders add.
const AddPrefix = "add-"

// Adders add users through the control API from many clients at all nodes: each name again and again, most of the time with the same key, sometimes with the
// key of somebody else.
type Adders struct {
	Label string // of the clients; "" means "adder"

	team
	mu    sync.Mutex
	tried int
	pairs map[string][2]nkeys.KeyPair // by name: two that want it
	found map[string]userRecord
}

var _ Workload = (*Adders)(nil)

// Name implements Workload.
func (w *Adders) Name() string { return "adders of users" }

// Setup implements Workload.
func (w *Adders) Setup(ctx context.Context, e *Env) error {
	w.pairs = map[string][2]nkeys.KeyPair{}
	return w.join(ctx, e, e.label(or(w.Label, "adder")), addClients)
}

// Run implements Workload.
func (w *Adders) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		rng := c.rngFor(fmt.Sprintf("%s turn %d", c.name, c.turn))
		return closedLoop(ctx, newPacer(addRate, i, len(w.clients)), func(int) {
			if err := w.addOne(ctx, c, rng); err != nil {
				e.log().Error("add a user", "client", c.name, "err", err) // only if the machine has no randomness
			}
		})
	})
}

// addOne is one attempt.
func (w *Adders) addOne(ctx context.Context, c *client, rng *rand.Rand) error {
	name, pairs, err := w.next(rng)
	if err != nil {
		return err
	}
	who := 0
	if rng.IntN(4) == 0 {
		who = 1
	}
	key, err := pairs[who].PublicKey()
	if err != nil {
		return fmt.Errorf("read the public key: %w", err)
	}
	role := []string{"member", "service"}[who]
	op := history.Op{Kind: history.Create, Target: check.TargetUsers, Key: name, Value: check.Encode(check.UserRecord{Key: key, Role: role})}
	c.changeWithin(ctx, addTimeout, &op, usersAdd, map[string]string{"name": name, "nkey": key, "role": role})
	return nil
}

// next picks a name among those that are open.
func (w *Adders) next(rng *rand.Rand) (string, [2]nkeys.KeyPair, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := fmt.Sprintf("%s%03d", AddPrefix, w.tried/addTries+rng.IntN(addOpen))
	w.tried++
	if p, ok := w.pairs[name]; ok {
		return name, p, nil
	}
	var p [2]nkeys.KeyPair
	for i := range p {
		pair, err := nkeys.CreateUser()
		if err != nil {
			return "", p, fmt.Errorf("create nkey: %w", err)
		}
		p[i] = pair
	}
	w.pairs[name] = p
	return name, p, nil
}

// Drain implements Workload: the list of users, which two passes agree on. See Logins for the rest.
func (w *Adders) Drain(ctx context.Context, e *Env) error {
	c, err := w.any()
	if err != nil {
		return err
	}
	var got map[string]userRecord
	err = until(ctx, drainTimeout, drainRetry, func(ctx context.Context) error {
		a, err := c.listUsers(ctx)
		if err != nil {
			return err
		}
		b, err := c.listUsers(ctx)
		if err == nil && !maps.Equal(a, b) {
			err = fmt.Errorf("two lists differ: %d and %d users", len(a), len(b))
		}
		got = a
		return err
	})
	w.found = got
	d := history.Drain{Target: check.TargetUsers, Complete: err == nil, Items: len(got)}
	for _, name := range slices.SortedFunc(maps.Keys(got), func(a, b string) int { return int(int64(got[a].Revision) - int64(got[b].Revision)) }) {
		u := got[name]
		e.Recorder.Item(history.Item{Target: check.TargetUsers, Seq: u.Revision, Key: name, Value: u.encode()})
		d.Last = max(d.Last, u.Revision)
		if d.First == 0 || u.Revision < d.First {
			d.First = u.Revision
		}
	}
	if err != nil {
		d.Err = cut(err.Error(), maxErrWord)
		err = fmt.Errorf("list users: %w", err)
	}
	e.Recorder.Drain(d)
	return err
}

// listUsers reads all pages of the workload's users.
func (c *client) listUsers(ctx context.Context) (map[string]userRecord, error) {
	all := map[string]userRecord{}
	for after := ""; ; {
		var page struct {
			Users []userRecord `json:"users"`
			Next  string       `json:"next"`
		}
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, apiTimeout)
			defer cancel()
			return c.call(ctx, usersList, map[string]any{"after": after, "limit": listPage, "prefix": AddPrefix}, &page)
		}()
		if err != nil {
			return nil, err
		}
		for _, u := range page.Users {
			if strings.HasPrefix(u.Name, AddPrefix) {
				all[u.Name] = u
			}
		}
		if page.Next == "" {
			return all, nil
		}
		after = page.Next
	}
}

// Logins lets both that wanted each name try to log in at every node, and somebody whom nobody ever added. A login without a certain answer is tried again.
func (w *Adders) Logins(ctx context.Context, e *Env) error {
	type job struct {
		name string
		pair nkeys.KeyPair
		node cluster.Node
	}
	stranger, err := nkeys.CreateUser()
	if err != nil {
		return fmt.Errorf("create nkey: %w", err)
	}
	w.mu.Lock()
	pairs := maps.Clone(w.pairs)
	w.mu.Unlock()
	pairs[AddPrefix+"nobody"] = [2]nkeys.KeyPair{stranger, stranger}
	jobs, errs := make(chan job), make([]error, addLogins)
	var wg sync.WaitGroup
	for i := range addLogins {
		wg.Go(func() {
			for j := range jobs {
				_, err := loginOnce(ctx, e, j.name, j.pair, j.node)
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		for _, pair := range pairs[name] {
			for _, n := range e.Cluster.Nodes() {
				jobs <- job{name, pair, n}
			}
		}
	}
	close(jobs)
	wg.Wait()
	return errors.Join(errs...)
}

// loginOnce tries to log in until the answer is certain.
func loginOnce(ctx context.Context, e *Env, name string, pair nkeys.KeyPair, n cluster.Node) (history.Outcome, error) {
	a, err := newAgent(e, name, pair, &witness{node: n})
	if err != nil {
		return history.Unknown, err
	}
	defer a.close()
	out := history.Unknown
	for range loginRounds {
		if out = a.login(ctx); out != history.Unknown || !pause(ctx, changeRetry) {
			break
		}
	}
	return out, nil
}

// Close implements Workload.
func (w *Adders) Close() { w.close() }
