package faults

import (
	"fmt"
	"slices"
	"time"

	"github.com/unibus/unibus/sut/cluster"
)

// CommonDelay and CommonJitter are those of a far-away data centre over a bad path.
const (
	CommonDelay  = 100 * time.Millisecond
	CommonJitter = 20 * time.Millisecond
)

// lateTolerance is what a loaded machine may add to the delay of a connection attempt before the probe doubts it.
const lateTolerance = 500 * time.Millisecond

// lateness is how late packets are.
type lateness struct {
	delay, jitter time.Duration
	seed          uint64
}

// Slow makes a verb that delays every packet that the victims send to other nodes by delay +- jitter, in order. A round trip takes that much longer.
func Slow(delay, jitter time.Duration, seed uint64) Verb {
	return func(victims ...cluster.NodeID) Fault {
		verb := "slow"
		if delay != CommonDelay || jitter != CommonJitter {
			verb = fmt.Sprintf("slow(%v+-%v)", delay, jitter)
		}
		f := newPartition(verb, victims, 1, func(all, victims []cluster.NodeID) []rule {
			var rules []rule
			for _, v := range victims {
				rules = append(rules, rule{node: v, peers: except(all, v), oneWay: true})
			}
			return rules
		})
		f.late = lateness{delay, jitter, seed}
		return f
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// lateFinding judges a side whose packets are late, by how long connection attempts over its links took. A handshake waits for one packet of the
// victim's; where both ends are victims it waits for one of each.
func (s sight) lateFinding(l lateness) finding {
	var took []float64
	answered := 0
	for _, d := range s.dials {
		took = append(took, d.TookMS)
		if d.Answered {
			answered++
		}
	}
	slices.Sort(took)
	present := s.before.Present && s.after.Present
	f := finding{figures: map[string]float64{
		"rules": oneIf(present), "dials": float64(len(took)), "dials_answered": float64(answered), "delayed": float64(s.after.Delayed),
		"dial_least_ms": took[0], "dial_most_ms": took[len(took)-1], "lease_seconds": s.after.Remaining,
	}}
	f.detail = fmt.Sprintf("rules in force: %v, packets held back: %d, connection attempts took %.1f to %.1f ms, wanted %v +- %v",
		present, s.after.Delayed, took[0], took[len(took)-1], l.delay, l.jitter)
	least, most := ms(l.delay-l.jitter), ms(2*(l.delay+l.jitter)+lateTolerance)
	switch {
	case present && answered == len(took) && took[0] >= least && took[len(took)-1] <= most && s.after.Delayed > s.before.Delayed:
		f.presence = full
	case s.before.Present || s.after.Present:
		f.presence = part
	}
	return f
}
