package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/unibus/unibus/scenarios/workload/drive"
)

// wantTraffic is what membershipd must reach of plain nats-server.
const wantTraffic = 0.97

// warm is how long each load works before it is measured.
const warm = 300 * time.Millisecond

func trafficPart() part {
	p := part{name: "traffic", doc: "rates of membershipd against plain nats-server: TLS 1.3, ten nkey users with the same permissions, sync always", bound: 15 * time.Minute, run: traffic}
	for _, l := range drive.Loads() {
		p.rows = append(p.rows, l.Name)
	}
	return p
}

func traffic(ctx context.Context, s *suite, rows []string) (out []Row, err error) {
	users, err := newUsers(staticUsers)
	if err != nil {
		return nil, err
	}
	ours, plain, closeBoth, err := s.both(ctx, users, users)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeBoth()) }()
	for _, y := range []*system{ours, plain} {
		if err := prepare(ctx, y, y == ours); err != nil {
			return nil, err
		}
	}
	loads := slices.DeleteFunc(drive.Loads(), func(l drive.Load) bool { return !slices.Contains(rows, l.Name) })
	rates := map[string]map[*system][]float64{}
	for _, l := range loads {
		rates[l.Name] = map[*system][]float64{}
	}
	err = inTurn(ctx, ours, plain, s.Rounds, func(ctx context.Context, y *system, round int) error {
		session, err := drive.Dial(ctx, drive.TargetOf(y.c), y.users[0])
		if err != nil {
			return err
		}
		defer session.Close()
		line := ""
		for _, l := range loads {
			r, err := measured(ctx, session, l, s.Window)
			if err != nil {
				return fmt.Errorf("%s: %w", l.Name, err)
			}
			rates[l.Name][y] = append(rates[l.Name][y], r.PerSecond())
			line += fmt.Sprintf("  %s %s/s", l.Name, short(r.PerSecond()))
		}
		s.Note("round %d of %d, %-11s%s", round+1, s.Rounds, y.label, line)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, l := range loads {
		out = append(out, ratioRow(l.Name, l.Doc, "/s", rates[l.Name][ours], rates[l.Name][plain],
			func(r Ratio) (string, bool, bool) { return atLeast(wantTraffic, r) }))
	}
	return out, nil
}

// measured lets a load warm up first.
func measured(ctx context.Context, session *drive.Session, l drive.Load, d time.Duration) (drive.Rate, error) {
	if _, err := l.Run(ctx, session, warm); err != nil {
		return drive.Rate{}, fmt.Errorf("warm up: %w", err)
	}
	return l.Run(ctx, session, d)
}

// both makes the two systems; no daemon runs yet.
func (s *suite) both(ctx context.Context, ourUsers, plainUsers []drive.User) (ours, plain *system, closeBoth func() error, err error) {
	if ours, err = s.create(ctx, "membershipd", s.Subject, ourUsers); err != nil {
		return nil, nil, nil, err
	}
	if plain, err = s.create(ctx, "nats-server", s.Plain, plainUsers); err != nil {
		return nil, nil, nil, errors.Join(err, ours.close(ctx))
	}
	return ours, plain, func() error { return errors.Join(ours.close(ctx), plain.close(ctx)) }, nil
}

// prepare makes the stream of the loads, and membershipd's users; the daemons are stopped again.
func prepare(ctx context.Context, y *system, enroll bool) error {
	if _, err := y.up(ctx); err != nil {
		return err
	}
	if enroll {
		if _, err := y.enroll(ctx, nil); err != nil {
			return err
		}
	}
	admin, err := drive.Dial(ctx, drive.TargetOf(y.c), y.admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := drive.MakeStream(ctx, admin); err != nil {
		return fmt.Errorf("prepare %s: %w", y.label, err)
	}
	return y.down(ctx)
}
