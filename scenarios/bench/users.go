package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/unibus/unibus/scenarios/workload/drive"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/observe"
)

// What is wanted with many users in the buckets.
const (
	wantConnect = 0.8
	wantMemory  = 2048 // bytes a user
	wantAddP99  = 100  // milliseconds
	wantRestart = 2.0
)

const (
	connectors   = 8   // clients that dial at once
	addedUsers   = 200 // one after the other
	heapPatience = 20 * time.Second
	heapStep     = 500 * time.Millisecond
	heapSeries   = "go_gc_heap_live_bytes" // live objects at the end of the last collection
)

// Rows of the part.
const (
	rowImport  = "import"
	rowConnect = "connect"
	rowIndex   = "memory-index"
	rowHeap    = "memory-daemon"
	rowAdd     = "user-add"
	rowRestart = "restart"
)

func usersPart() part {
	return part{name: "users", doc: "many users in the buckets", rows: []string{rowImport, rowConnect, rowIndex, rowHeap, rowAdd, rowRestart}, bound: 25 * time.Minute, run: users}
}

// users measures what a cluster does with many users. One that is filled once serves all rows.
func users(ctx context.Context, s *suite, rows []string) (out []Row, err error) {
	if slices.Contains(rows, rowIndex) {
		row, err := indexMemory(s.Users)
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	if len(rows) == len(out) {
		return out, nil
	}
	s.Note("making the keys of %s users", short(float64(s.Users)))
	many, err := newUsers(s.Users)
	if err != nil {
		return out, err
	}
	full, plain, closeBoth, err := s.both(ctx, many, many[:min(staticUsers, len(many))])
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, closeBoth()) }()
	got, err := fill(ctx, s, full)
	out = append(out, only(got, rows)...)
	if err != nil {
		return out, err
	}
	for _, r := range []struct {
		name    string
		measure func() (Row, error)
	}{
		{rowAdd, func() (Row, error) { return adds(ctx, s, full) }},
		{rowConnect, func() (Row, error) { return connects(ctx, s, full, plain) }},
		{rowRestart, func() (Row, error) { return restarts(ctx, s, full) }},
	} {
		if !slices.Contains(rows, r.name) {
			continue
		}
		row, err := r.measure()
		if err != nil {
			return out, fmt.Errorf("%s: %w", r.name, err)
		}
		out = append(out, row)
	}
	return out, nil
}

// apply puts one record into an index.
func apply(x *access.Index, b access.Bucket, revision uint64, key string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	x.Apply(access.Record{Bucket: b, Key: key, Revision: revision, Value: body})
	return nil
}

// indexMemory measures the heap that an index takes, in this process.
func indexMemory(n int) (Row, error) {
	keys, err := newUsers(n)
	if err != nil {
		return Row{}, err
	}
	before := liveHeap()
	x := access.NewIndex()
	if err := apply(x, access.Roles, 1, role.Name, role); err != nil {
		return Row{}, err
	}
	for i, u := range keys {
		if err := apply(x, access.Users, uint64(i)+1, u.Name, record(u)); err != nil {
			return Row{}, err
		}
	}
	per := (liveHeap() - before) / float64(n)
	if got := x.Stats(); got.Users != n || got.Quarantined != 0 {
		return Row{}, fmt.Errorf("the index has %d of %d users", got.Users, n)
	}
	runtime.KeepAlive(keys)
	row := Row{Name: rowIndex, What: fmt.Sprintf("heap of the index, a user, with %s", short(float64(n))), Value: per, Unit: "B", Figure: fmt.Sprintf("%.0f bytes a user", per)}
	return row.below(wantMemory, "< 2 KiB"), nil
}

func liveHeap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first has marked as garbage is swept by the second
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// fill puts the users into the buckets, and measures that and what it did to the daemons' heap.
func fill(ctx context.Context, s *suite, full *system) ([]Row, error) {
	if _, err := full.up(ctx); err != nil {
		return nil, err
	}
	before, err := heaps(ctx, full.c)
	if err != nil {
		return nil, err
	}
	began, told := time.Now(), time.Now()
	got, err := full.enroll(ctx, func(done int) {
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			s.Note("imported %s of %s users", short(float64(done)), short(float64(len(full.users))))
		}
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	if got.Added != len(full.users) {
		return nil, fmt.Errorf("%d of %d users were new", got.Added, len(full.users))
	}
	if p := observe.WaitConverged(ctx, full.c, observe.Want{Buckets: sixOfOurs, Replicas: allThree}); !p.OK {
		return nil, fmt.Errorf("after the import: it does not converge: %s", p.Why)
	}
	rate := float64(got.Added) / took.Seconds()
	s.Note("imported %s users in %.1f s", short(float64(got.Added)), took.Seconds())
	rows := []Row{{Name: rowImport, What: fmt.Sprintf("import of %s users, each audited and on a majority's disks", short(float64(got.Added))), Value: rate, Unit: "/s",
		Certain: true, Figure: fmt.Sprintf("%.1f s, %s users/s", took.Seconds(), short(rate))}}
	after, err := heaps(ctx, full.c)
	if err != nil {
		return rows, err
	}
	worst := 0.0
	for id := range after {
		worst = max(worst, (after[id]-before[id])/float64(got.Added))
	}
	heap := Row{Name: rowHeap, What: "growth of a daemon's whole live heap, a user, streams and all; the largest of the nodes", Value: worst, Unit: "B",
		Figure: fmt.Sprintf("%.0f bytes a user", worst)}
	return append(rows, heap.below(wantMemory, "< 2 KiB")), nil
}

// heaps are the daemons' live heaps. A collection ends some seconds after the load that needs it, so the smallest figure of a while counts.
func heaps(ctx context.Context, c cluster.Cluster) (map[cluster.NodeID]float64, error) {
	least := map[cluster.NodeID]float64{}
	for began := time.Now(); time.Since(began) < heapPatience; {
		for _, n := range c.Nodes() {
			v, err := observe.Metric(ctx, n, heapSeries)
			if err != nil {
				return nil, fmt.Errorf("read the heap of %s: %w", n.ID(), err)
			}
			if old, ok := least[n.ID()]; !ok || v < old {
				least[n.ID()] = v
			}
		}
		if !pause(ctx, heapStep) {
			return nil, ctx.Err()
		}
	}
	return least, nil
}

// adds adds users one after the other, through one node after the other. A user counts as usable when the answer says that every node has it; whether
// that is true is tried at once, with one login at every node.
func adds(ctx context.Context, s *suite, full *system) (Row, error) {
	if _, err := full.up(ctx); err != nil {
		return Row{}, err
	}
	t := drive.TargetOf(full.c)
	var clients []*control.Client
	for i := range t.Servers {
		c, err := full.control(ctx, i)
		if err != nil {
			return Row{}, err
		}
		defer c.Close()
		clients = append(clients, c)
	}
	var ms []float64
	late, refused := 0, 0
	for i := range addedUsers {
		u, err := drive.NewUser(fmt.Sprintf("late-%d", i))
		if err != nil {
			return Row{}, err
		}
		began := time.Now()
		ch, err := clients[i%len(clients)].AddUser(ctx, control.UserAddRequest{Name: u.Name, Key: u.Public, Role: roleName})
		if err != nil {
			return Row{}, fmt.Errorf("add %s: %w", u.Name, err)
		}
		ms = append(ms, float64(time.Since(began).Microseconds())/1000)
		if len(ch.Applied) < len(t.Servers) {
			late++
		}
		refused += refusedLogins(ctx, t, u)
	}
	x := spreadOf(ms)
	row := Row{Name: rowAdd, What: fmt.Sprintf("user add to usable on all nodes, with %s users", short(float64(s.Users))), Spread: &x, Value: x.P99, Unit: "ms",
		Figure: fmt.Sprintf("median %.1f ms, p99 %.1f ms, max %.1f ms (n=%d); %d of %d logins at once succeeded, %d answers without every node",
			x.Median, x.P99, x.Max, x.N, addedUsers*len(t.Servers)-refused, addedUsers*len(t.Servers), late)}
	row = row.below(wantAddP99, "p99 < 100 ms")
	row.Met = row.Met && late == 0 && refused == 0
	return row, nil
}

// refusedLogins tries the user at every node at the same time.
func refusedLogins(ctx context.Context, t drive.Target, u drive.User) int {
	errs := make([]error, len(t.Servers))
	var wg sync.WaitGroup
	for i := range t.Servers {
		wg.Go(func() { errs[i] = drive.Login(ctx, t, u, i) })
	}
	wg.Wait()
	n := 0
	for _, err := range errs {
		if err != nil {
			n++
		}
	}
	return n
}

// connects compares logins of any of many users with those of ten users in a configuration.
func connects(ctx context.Context, s *suite, full, plain *system) (Row, error) {
	rates := map[*system][]float64{}
	err := inTurn(ctx, full, plain, s.Rounds, func(ctx context.Context, y *system, round int) error {
		t := drive.TargetOf(y.c)
		mix := spaced(y.users)
		if _, err := drive.Connects(ctx, t, mix, connectors, warm); err != nil {
			return err
		}
		r, err := drive.Connects(ctx, t, mix, connectors, 2*s.Window)
		if err != nil {
			return err
		}
		rates[y] = append(rates[y], r.PerSecond())
		s.Note("round %d of %d, %-11s  %s connections/s", round+1, s.Rounds, y.label, short(r.PerSecond()))
		return nil
	})
	if err != nil {
		return Row{}, err
	}
	return ratioRow(rowConnect, fmt.Sprintf("connect, TLS and login included: %s users in the buckets against %d in a configuration", short(float64(len(full.users))), staticUsers), "/s",
		rates[full], rates[plain], func(r Ratio) (string, bool, bool) { return atLeast(wantConnect, r) }), nil
}

// spaced takes users from all over the list, so that no two connections in a row are of neighbours.
func spaced(all []drive.User) []drive.User {
	const step = 7919 // a prime that divides no usual number of users
	if len(all)%step == 0 {
		return all
	}
	mix := make([]drive.User, len(all))
	for i := range mix {
		mix[i] = all[i*step%len(all)]
	}
	return mix
}

// restarts compares how long all three daemons take, after they were stopped, until every one says that it is ready: with the users, and without.
func restarts(ctx context.Context, s *suite, full *system) (row Row, err error) {
	empty, err := s.create(ctx, "empty", s.Subject, nil)
	if err != nil {
		return Row{}, err
	}
	defer func() { err = errors.Join(err, empty.close(ctx)) }()
	if _, err := empty.up(ctx); err != nil { // the first start of a cluster is another thing
		return Row{}, err
	}
	took := map[*system][]float64{}
	for round := range s.Rounds {
		order := []*system{full, empty}
		if round%2 == 1 {
			order = []*system{empty, full}
		}
		for _, y := range order {
			if err := errors.Join(full.down(ctx), empty.down(ctx)); err != nil {
				return Row{}, err
			}
			d, err := y.up(ctx)
			if err != nil {
				return Row{}, err
			}
			took[y] = append(took[y], d.Seconds())
			s.Note("round %d of %d, %-11s  ready after %.2f s", round+1, s.Rounds, y.label, d.Seconds())
		}
	}
	return ratioRow(rowRestart, fmt.Sprintf("all nodes stopped, then started until all are ready: %s users against none", short(float64(len(full.users)))), "s",
		took[full], took[empty], func(r Ratio) (string, bool, bool) { return atMost(wantRestart, r) }), nil
}
