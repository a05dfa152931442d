package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// Settings of ColdUsers.
const (
	coldUsers   = 18
	coldWithin  = 20 * time.Second // for a node that was started to take connections at all
	coldRetry   = 20 * time.Millisecond
	coldLogins  = 3 // side by side
	coldEnabled = "acl-cold"
)

// ColdUsers are users of all sorts, known, disabled, with a replaced key, and never heard of, who log in when a scenario says so. It does nothing by itself.
type ColdUsers struct {
	Users int // 0 means 18; a third of them is disabled at first

	env    *Env
	admin  *admin
	people []*person
	old    []*person // keys that were replaced, under their user's name
	nobody *person
	turn   int
}

var _ Workload = (*ColdUsers)(nil)

// Name implements Workload.
func (w *ColdUsers) Name() string { return "users who log in" }

// Setup implements Workload: it adds the users, and every node confirms each of them.
func (w *ColdUsers) Setup(ctx context.Context, e *Env) error {
	w.env, w.Users = e, or(w.Users, coldUsers)
	ctx, cancel := context.WithTimeout(ctx, setupFor)
	defer cancel()
	var err error
	if w.admin, err = newAdmin(ctx, e, "cold-admin", 0); err != nil {
		return err
	}
	if w.nobody, err = newPerson("nobody-knows"); err != nil {
		return err
	}
	for i := range w.Users {
		p, err := newPerson(fmt.Sprintf("%s-%02d", coldEnabled, i))
		if err != nil {
			return err
		}
		if _, err := w.admin.add(ctx, p, "member"); err != nil {
			return err
		}
		w.people = append(w.people, p)
	}
	for i, p := range w.people {
		switch i % 6 {
		case 0, 3:
			_, err = w.admin.disable(ctx, p)
		case 1:
			err = w.rotate(ctx, p)
		}
		if err != nil {
			return err
		}
	}
	return w.Settle(ctx)
}

// rotate replaces a user's key; the old one goes on trying.
func (w *ColdUsers) rotate(ctx context.Context, p *person) error {
	old, _, err := w.admin.rotate(ctx, p)
	if err == nil {
		w.old = append(w.old, &person{name: p.name, pair: old})
	}
	return err
}

// Settle waits until every node has confirmed every change.
func (w *ColdUsers) Settle(ctx context.Context) error {
	return until(ctx, settleFor, changeRetry, func(ctx context.Context) error {
		for _, p := range w.people {
			if !p.settle(ctx) {
				return fmt.Errorf("%w: %s", errNotConfirmed, p.name)
			}
		}
		return nil
	})
}

// Change disables a user who may come in, lets one in who was disabled, replaces a key, and returns as soon as the last is confirmed by whichever
// nodes are there: what happens next happens to nodes that have only just heard.
func (w *ColdUsers) Change(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupFor)
	defer cancel()
	w.turn++
	on, off := w.pick(false), w.pick(true)
	if on == nil || off == nil {
		return errors.New("there are no users left to change")
	}
	if _, err := w.admin.enable(ctx, off); err != nil {
		return err
	}
	if err := w.rotate(ctx, off); err != nil {
		return err
	}
	_, err := w.admin.disable(ctx, on)
	return err
}

// pick is the turn's user of those that are disabled, or are not.
func (w *ColdUsers) pick(disabled bool) *person {
	var some []*person
	for _, p := range w.people {
		if p.now().Disabled == disabled {
			some = append(some, p)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[w.turn%len(some)]
}

// Logins lets everybody try to log in at these nodes, from the moment at which each takes connections. A node that takes none in time gets no logins,
// which the claims notice.
func (w *ColdUsers) Logins(ctx context.Context, ids ...cluster.NodeID) error {
	var wg sync.WaitGroup
	errs := make([]error, len(ids))
	for i, id := range ids {
		wg.Go(func() { errs[i] = w.loginsAt(ctx, cluster.Find(w.env.Cluster, id)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *ColdUsers) loginsAt(ctx context.Context, n cluster.Node) error {
	first := w.people[len(w.people)-1] // one that is let in: the very first connection that a node takes is one of the record
	reach, cancel := context.WithTimeout(ctx, coldWithin)
	defer cancel()
	for {
		a, err := newAgent(w.env, first.name, first.pair, &witness{node: n})
		if err != nil {
			return err
		}
		out := a.login(reach)
		a.close()
		if out != history.Unknown {
			break
		}
		if !pause(reach, coldRetry) {
			return nil
		}
	}
	everybody := append(append([]*person{w.nobody}, w.people...), w.old...)
	jobs, errs := make(chan *person), make([]error, coldLogins)
	var wg sync.WaitGroup
	for i := range coldLogins {
		wg.Go(func() {
			for p := range jobs {
				_, err := loginOnce(ctx, w.env, p.name, p.pair, n)
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	for _, p := range everybody {
		jobs <- p
	}
	close(jobs)
	wg.Wait()
	return errors.Join(errs...)
}

// ColdActions are what ColdUsers try.
func ColdActions() []string { return []string{check.ActLogin, check.ActInbox} }

// Run implements Workload: it waits.
func (w *ColdUsers) Run(ctx context.Context, _ *Env) error {
	<-ctx.Done()
	return nil
}

// Drain implements Workload: nothing is read back.
func (w *ColdUsers) Drain(context.Context, *Env) error { return nil }

// Close implements Workload.
func (w *ColdUsers) Close() {
	if w.admin != nil {
		w.admin.close()
	}
}
