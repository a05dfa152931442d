package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

func startPart() part {
	return part{name: "start", doc: "three new nodes up, and removed again", rows: []string{"up", "up-and-down"}, bound: 10 * time.Minute, run: start}
}

// start makes and removes clusters in turn.
func start(ctx context.Context, s *suite, rows []string) ([]Row, error) {
	up, total := map[cluster.Kind][]float64{}, map[cluster.Kind][]float64{}
	for round := range s.Rounds {
		order := []cluster.Subject{s.Subject, s.Plain}
		if round%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, sub := range order {
			u, d, err := s.upDown(ctx, fmt.Sprintf("start-%d", round), sub, nil)
			if err != nil {
				return nil, fmt.Errorf("round %d with %s: %w", round+1, sub, err)
			}
			up[sub.Kind], total[sub.Kind] = append(up[sub.Kind], u.Seconds()), append(total[sub.Kind], (u+d).Seconds())
			s.Note("round %d of %d, %-11s  up %.2f s, down %.2f s", round+1, s.Rounds, sub.Kind, u.Seconds(), d.Seconds())
		}
	}
	all := []Row{
		ratioRow("up", "from nothing to converged with six R3 buckets; nats-server: to healthy", "s", up[cluster.Membershipd], up[cluster.NATSServer], nil),
		ratioRow("up-and-down", "the same and removed", "s", total[cluster.Membershipd], total[cluster.NATSServer], nil),
	}
	return only(all, rows), nil
}

// only keeps the rows with those names.
func only(all []Row, names []string) (kept []Row) {
	for _, r := range all {
		for _, n := range names {
			if r.Name == n {
				kept = append(kept, r)
			}
		}
	}
	return kept
}

// upDown times a cluster from the first engine call until it serves, and its removal. Between the two it calls while.
func (s *suite) upDown(ctx context.Context, label string, sub cluster.Subject, while func(cluster.Cluster) error) (up, down time.Duration, err error) {
	began := time.Now()
	y, err := s.create(ctx, label, sub, nil)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		leave := time.Now()
		err = errors.Join(err, y.close(ctx))
		down = time.Since(leave)
	}()
	if _, err := y.up(ctx); err != nil {
		return 0, 0, err
	}
	up = time.Since(began)
	if while != nil {
		err = while(y.c)
	}
	return up, down, err
}
