package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/unibus/unibus/scenarios/workload/drive"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/observe"
)

const (
	upBound   = 90 * time.Second // for one cluster to be up
	downBound = 30 * time.Second
	readyPoll = 20 * time.Millisecond
	sixOfOurs = 6               // buckets of membershipd
	allThree  = 3               // replicas, and nodes
	calm      = time.Second     // after a start, before anything is measured
	apiBound  = 5 * time.Second // of one call of the control API
	roleName  = "bench"
)

// staticUsers is how many users a configuration of plain nats-server has.
const staticUsers = 10

// role is what users may do in benchmarks, on both systems.
var role = access.Role{
	Schema: access.Schema, Name: roleName, Publish: []string{drive.Subjects}, Subscribe: []string{drive.Subjects}, Respond: true,
	Streams: []access.StreamGrant{{Name: drive.Stream, Access: access.StreamRead}},
}

// system is a cluster whose pods stay while its daemons run only when it is its turn: an idle cluster costs processor time and flushes to the disk,
// which another one would pay for.
type system struct {
	label   string
	c       cluster.Cluster
	admin   drive.User
	users   []drive.User
	running bool
}

// create makes a cluster with users that can do what the role allows. Those of plain nats-server are in its configuration, with the very permissions
// that membershipd derives; those of membershipd are added once it runs (see enroll).
func (s *suite) create(ctx context.Context, label string, sub cluster.Subject, users []drive.User) (*system, error) {
	admin, err := drive.NewUser("admin")
	if err != nil {
		return nil, err
	}
	spec := cluster.Spec{RunID: s.RunID, Name: "bench-" + label, Subject: sub, AdminKey: admin.Public}
	if sub.Kind == cluster.NATSServer {
		if spec.Users, err = staticOf(users); err != nil {
			return nil, err
		}
	}
	c, err := s.Backend.NewCluster(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("make the cluster %s: %w", label, err)
	}
	return &system{label: label, c: c, admin: admin, users: users}, nil
}

// newUsers makes users bench-0, bench-1, ...
func newUsers(n int) ([]drive.User, error) {
	all := make([]drive.User, n)
	for i := range all {
		var err error
		if all[i], err = drive.NewUser(fmt.Sprintf("bench-%d", i)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// staticOf derives permissions as membershipd does.
func staticOf(users []drive.User) ([]cluster.User, error) {
	x := access.NewIndex()
	if err := apply(x, access.Roles, 1, role.Name, role); err != nil {
		return nil, err
	}
	var all []cluster.User
	for i, u := range users {
		if err := apply(x, access.Users, uint64(i)+1, u.Name, record(u)); err != nil {
			return nil, err
		}
		l, err := x.Login(u.Public)
		if err != nil {
			return nil, fmt.Errorf("derive permissions: %w", err)
		}
		p := l.Permissions
		all = append(all, cluster.User{Key: u.Public, PublishAllow: p.PublishAllow, PublishDeny: p.PublishDeny, SubscribeAllow: p.SubscribeAllow,
			SubscribeDeny: p.SubscribeDeny, Respond: p.Respond})
	}
	return all, nil
}

func record(u drive.User) access.User {
	return access.User{Schema: access.Schema, Name: u.Name, Key: u.Public, Role: roleName, Created: time.Unix(0, 0).UTC()}
}

// control dials the control API through the i-th node.
func (y *system) control(ctx context.Context, i int) (*control.Client, error) {
	return control.Dial(ctx, drive.TargetOf(y.c).Options(y.admin, i))
}

// enroll puts role and users into the buckets of a membershipd that runs.
func (y *system) enroll(ctx context.Context, progress func(done int)) (control.Import, error) {
	client, err := y.control(ctx, 0)
	if err != nil {
		return control.Import{}, err
	}
	defer client.Close()
	if _, err := client.PutRole(ctx, control.RolePutRequest{Role: role}); err != nil {
		return control.Import{}, fmt.Errorf("put the role: %w", err)
	}
	reqs := make([]control.UserAddRequest, len(y.users))
	for i, u := range y.users {
		reqs[i] = control.UserAddRequest{Name: u.Name, Key: u.Public, Role: roleName}
	}
	got, err := client.ImportAll(ctx, reqs, control.ImportOptions{Progress: progress})
	if err != nil {
		return got, fmt.Errorf("import %d users: %w", len(reqs), err)
	}
	return got, nil
}

// up starts the daemons and waits until they can serve; it returns how long they took to say that they are ready.
func (y *system) up(ctx context.Context) (time.Duration, error) {
	if y.running {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, upBound)
	defer cancel()
	began := time.Now()
	y.running = true
	if err := y.each(func(n cluster.Node) error { return n.Start(ctx) }); err != nil {
		return 0, fmt.Errorf("start %s: %w", y.label, err)
	}
	if err := allReady(ctx, y.c); err != nil {
		return 0, fmt.Errorf("start %s: %w", y.label, err)
	}
	took := time.Since(began)
	want := observe.Want{}
	if y.c.Spec().Subject.Kind == cluster.Membershipd {
		want = observe.Want{Buckets: sixOfOurs, Replicas: allThree}
	}
	if p := observe.WaitConverged(ctx, y.c, want); !p.OK {
		return took, fmt.Errorf("start %s: it does not converge: %s", y.label, p.Why)
	}
	return took, nil
}

// down stops the daemons in the polite way and keeps everything else.
func (y *system) down(ctx context.Context) error {
	if !y.running {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, downBound)
	defer cancel()
	err := y.each(func(n cluster.Node) error {
		if err := n.Signal(ctx, syscall.SIGTERM); err != nil && !errors.Is(err, cluster.ErrNotRunning) {
			return err
		}
		return n.WaitExit(ctx)
	})
	if err != nil {
		return fmt.Errorf("stop %s: %w", y.label, err)
	}
	y.running = false
	return nil
}

// close removes the cluster.
func (y *system) close(ctx context.Context) error { return y.c.Close(context.WithoutCancel(ctx)) }

func (y *system) each(f func(cluster.Node) error) error {
	nodes := y.c.Nodes()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// allReady waits until every node says so.
func allReady(ctx context.Context, c cluster.Cluster) error {
	t := time.NewTicker(readyPoll)
	defer t.Stop()
	for {
		ok := 0
		for _, n := range c.Nodes() {
			if code, _, err := observe.Get(ctx, n.Endpoints().Ready); err == nil && code == http.StatusOK {
				ok++
			}
		}
		if ok == len(c.Nodes()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes ready: %w", ok, len(c.Nodes()), ctx.Err())
		case <-t.C:
		}
	}
}

// inTurn measures two systems in the order A B B A A B B A ..., so that what drifts on the machine falls on both alike. The daemons of one are
// stopped while the other is measured.
func inTurn(ctx context.Context, a, b *system, rounds int, measure func(ctx context.Context, y *system, round int) error) error {
	for round := range rounds {
		order := []*system{a, b}
		if round%2 == 1 {
			order = []*system{b, a}
		}
		for i, y := range order {
			if err := order[1-i].down(ctx); err != nil {
				return err
			}
			if !y.running {
				if _, err := y.up(ctx); err != nil {
					return err
				}
				if !pause(ctx, calm) {
					return ctx.Err()
				}
			}
			if err := measure(ctx, y, round); err != nil {
				return fmt.Errorf("round %d with %s: %w", round+1, y.label, err)
			}
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
