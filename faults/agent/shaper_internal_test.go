//go:build linux

package agent

import (
	"testing"
	"time"
)

// A limited rate lets no more through than its rate, whatever is offered, and makes nobody wait who sends more slowly than that.
func TestRated(t *testing.T) {
	const kbit, length = 10_000, 1250 // a packet is a millisecond
	spaced := func(every time.Duration, packets int) (sent []time.Duration, lost int) {
		s := &shaper{p: Impairment{RateKbit: kbit}}
		began := time.Unix(1_000_000, 0)
		for i := range packets {
			now := began.Add(time.Duration(i) * every)
			due, full := s.rated(&s.flows[0], now, length)
			if full {
				lost++
				continue
			}
			if due.Before(now) {
				t.Fatalf("packet %d leaves %v before it came", i, now.Sub(due))
			}
			sent = append(sent, due.Sub(began))
		}
		return sent, lost
	}
	for _, every := range []time.Duration{0, 100 * time.Microsecond, 700 * time.Microsecond, time.Millisecond} {
		sent, lost := spaced(every, 2000)
		for i, at := range sent {
			if passed := time.Duration(i+1) * time.Millisecond; passed > at {
				t.Fatalf("every %v: %d packets have left after %v", every, i+1, at)
			}
		}
		if total := 2000 * every; every < time.Millisecond && (lost == 0 || len(sent) < int((total+maxBacklog)/time.Millisecond)) {
			t.Errorf("every %v: %d packets passed, %d were lost", every, len(sent), lost)
		} else if every >= time.Millisecond && lost > 0 {
			t.Errorf("every %v: %d packets were lost", every, lost)
		}
	}
	sent, _ := spaced(2*time.Millisecond, 100)
	for i, at := range sent {
		if late := at - 2*time.Duration(i)*time.Millisecond; late > time.Millisecond {
			t.Fatalf("packet %d waits for %v on an idle link", i, late)
		}
	}
}
