package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/unibus/unibus/faults/agent"
	"github.com/unibus/unibus/sut/cluster"
)

// Impairments of the catalogue: a nuisance each, and no outage. Chances are packets in a thousand.
const (
	CommonLoss      = 50
	CommonDuplicate = 50
	CommonCorrupt   = 50
	CommonReorder   = 250
	// CommonRate is about what a loaded follower needs, in kbit/s.
	CommonRate = 2000
	// CommonDelay and CommonJitter are those of a far-away data centre over a bad path.
	CommonDelay  = 100 * time.Millisecond
	CommonJitter = 20 * time.Millisecond
	// reorderDelay is what those are late that others overtake.
	reorderDelay = 20 * time.Millisecond
)

// Way is which packets of the victims an impairment is about.
type Way int

// Ways.
const (
	BothWays Way = iota
	Outgoing     // what the victims send to other nodes
	Incoming     // what other nodes send to the victims
)

// Impair makes a verb that impairs the links between the victims and all other nodes, where packets are sent: each direction on its own, with chances
// of its own.
func Impair(verb string, i agent.Impairment, w Way) Verb {
	return func(victims ...cluster.NodeID) Fault {
		f := newPartition(verb, victims, 1, func(all, victims []cluster.NodeID) []rule { return impaired(all, victims, w) })
		f.ask.Action, f.ask.Impairment = agent.ActionShape, i
		f.look, f.beside = f.lookImpaired, f.sprayBeside
		return f
	}
}

func impaired(all, victims []cluster.NodeID, w Way) []rule {
	var rules []rule
	for _, n := range all {
		to := map[cluster.NodeID]bool{}
		for _, v := range victims {
			if n == v && w != Incoming {
				for _, p := range except(all, v) {
					to[p] = true
				}
			}
			if n != v && w != Outgoing {
				to[v] = true
			}
		}
		r := rule{node: n, oneWay: true}
		for _, p := range all {
			if to[p] {
				r.peers = append(r.peers, p)
			}
		}
		if len(r.peers) > 0 {
			rules = append(rules, r)
		}
	}
	return rules
}

// Lossy makes a verb that drops so many packets in a thousand between each victim and every other node, in each direction, each packet at random.
func Lossy(permille int) Verb {
	return Impair(named("lossy", permille == CommonLoss, permille), agent.Impairment{Loss: permille, Seed: 1}, BothWays)
}

// Duplicate makes a verb that sends so many packets in a thousand twice, in each direction.
func Duplicate(permille int) Verb {
	return Impair(named("duplicate", permille == CommonDuplicate, permille), agent.Impairment{Duplicate: permille, Seed: 1}, BothWays)
}

// Corrupt makes a verb that turns one bit round in so many packets in a thousand, in each direction, behind the IP header.
func Corrupt(permille int) Verb {
	return Impair(named("corrupt", permille == CommonCorrupt, permille), agent.Impairment{Corrupt: permille, Seed: 1}, BothWays)
}

// Reorder makes a verb by which so many packets in a thousand overtake the others, which are 20 ms late, in each direction.
func Reorder(permille int) Verb {
	return Impair(named("reorder", permille == CommonReorder, permille), agent.Impairment{Reorder: permille, DelayMS: ms(reorderDelay), Seed: 1}, BothWays)
}

// Throttle makes a verb that lets so many kbit/s pass from each victim to all other nodes together, and from each of those to the victims.
func Throttle(kbit int) Verb {
	return Impair(named("throttle", kbit == CommonRate, kbit), agent.Impairment{RateKbit: kbit, Seed: 1}, BothWays)
}

// Slow makes a verb that delays every packet that the victims send to other nodes by delay +- jitter, in order. A round trip takes that much longer.
func Slow(delay, jitter time.Duration, seed uint64) Verb {
	verb := "slow"
	if delay != CommonDelay || jitter != CommonJitter {
		verb = fmt.Sprintf("slow(%v+-%v)", delay, jitter)
	}
	return Impair(verb, agent.Impairment{DelayMS: ms(delay), JitterMS: ms(jitter), Seed: seed}, Outgoing)
}

func named(verb string, common bool, value int) string {
	if common {
		return verb
	}
	return fmt.Sprintf("%s(%d)", verb, value)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Settings of what is measured over each link and direction.
const (
	// chanceSpray is how many datagrams show a chance. With one peer, 1,000 of them, the least share that is accepted as measured is more than
	// three standard deviations away from what is expected, down to 5 %; with two peers, more than five.
	chanceSpray = 1000
	chanceBytes = 100
	// delaySpray is how many show a delay.
	delaySpray = 20
	// rateFor is how long a spray occupies a link of a limited rate.
	rateFor       = 100 * time.Millisecond
	rateBytes     = 1000
	rateWithUDP   = rateBytes + 28
	rateLate      = 500 * time.Millisecond // what a datagram waits at most: see agent.Impairment
	rateSprayLow  = 6
	rateSprayHigh = 500
	// chanceTolerance is by which part of itself a measured share may differ from the wanted one, and rateTolerance by how much a rate may be above it.
	chanceTolerance = 0.5
	rateTolerance   = 0.3
	// earlyTolerance is for the difference of two readings of a clock, lateTolerance for what a loaded machine adds to a delay.
	earlyTolerance = 2 * time.Millisecond
	lateTolerance  = 500 * time.Millisecond
	// quietFor ends the wait for datagrams that do not come, and waitMost bounds it.
	quietFor = 250 * time.Millisecond
	waitMost = 5 * time.Second
)

// sprayed is what came of datagrams over the links of one side, all together.
type sprayed struct {
	sent, received, duplicated, corrupted, reordered float64
	least, median, most                              float64 // ms
	bytes, firstMS, lastMS                           float64
	links                                            int
}

func (s *sprayed) add(sent int, r agent.DrainResult) {
	s.sent += float64(sent)
	s.received += float64(r.Received)
	s.duplicated += float64(r.Duplicated)
	s.corrupted += float64(r.Corrupted)
	s.reordered += float64(r.Reordered)
	s.bytes += float64(r.Bytes)
	if r.Received > 0 {
		if s.links == 0 || r.LeastMS < s.least {
			s.least = r.LeastMS
		}
		if s.links == 0 || r.FirstMS < s.firstMS {
			s.firstMS = r.FirstMS
		}
		s.lastMS = max(s.lastMS, r.LastMS)
		s.median, s.most = max(s.median, r.MedianMS), max(s.most, r.MostMS)
		s.links++
	}
}

// lookImpaired sends numbered datagrams over each impaired link, and takes from their receivers what became of them.
func (f *partition) lookImpaired(ctx context.Context, _ cluster.Cluster, ends []side) ([]finding, error) {
	judge := func(s sight) finding { return s.impaired(f.ask.Impairment) }
	return f.aroundCounters(ctx, ends, judge, func(i int, s *sight) (err error) {
		s.spray, err = sprayLinks(ctx, ends[i].links(), f.ask.Impairment)
		return err
	})
}

// links are those over which the side sends.
func (e side) links() []link {
	var out []link
	for _, p := range e.peers {
		out = append(out, link{e.host, p})
	}
	return out
}

// sinkCount makes the names of sinks.
var sinkCount atomic.Uint64

// sprayLinks sends datagrams over links, all at once, and adds up what came of them.
func sprayLinks(ctx context.Context, links []link, i agent.Impairment) (sprayed, error) {
	count, size := spraySize(i)
	results := make([]agent.DrainResult, len(links))
	sent := make([]agent.SprayResult, len(links))
	err := eachIndex(len(links), func(n int) error {
		return links[n].spray(ctx, agent.SprayParams{Count: count, Bytes: size}, i, &sent[n], &results[n])
	})
	var all sprayed
	for n := range links {
		all.add(sent[n].Sent, results[n])
	}
	return all, err
}

// spraySize is how many datagrams of how many bytes show an impairment.
func spraySize(i agent.Impairment) (count, size int) {
	switch {
	case i.RateKbit > 0:
		return min(max(int(rateFor.Seconds()*float64(i.RateKbit)*1000/(8*rateWithUDP)), rateSprayLow), rateSprayHigh), rateBytes
	case i.Loss+i.Duplicate+i.Corrupt+i.Reorder > 0:
		return chanceSpray, chanceBytes
	default:
		return delaySpray, chanceBytes
	}
}

func (l link) spray(ctx context.Context, p agent.SprayParams, i agent.Impairment, sent *agent.SprayResult, got *agent.DrainResult) error {
	id := fmt.Sprintf("%s>%s#%d", l.from.id, l.to.id, sinkCount.Add(1))
	var sink agent.SinkResult
	if err := l.to.agent.Call(ctx, agent.MethodSink, agent.SinkParams{ID: id}, &sink); err != nil {
		return nodeError(l.to.id, "open sink on", err)
	}
	p.Address = net.JoinHostPort(l.to.addr, strconv.Itoa(sink.Port))
	err := l.from.agent.Call(ctx, agent.MethodSpray, p, sent)
	late := milliseconds(i.DelayMS + i.JitterMS)
	if i.RateKbit > 0 {
		late += rateLate
	}
	drain := agent.DrainParams{ID: id, Want: p.Count, QuietMS: ms(quietFor + late), BoundMS: ms(waitMost + late)}
	return errors.Join(nodeError(l.from.id, "send datagrams from", err), nodeError(l.to.id, "drain sink on", l.to.agent.Call(ctx, agent.MethodDrain, drain, got)))
}

func milliseconds(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

// shows tells whether what came of the datagrams is what an impairment makes of them, and says it.
func (s sprayed) shows(i agent.Impairment) (bool, string) {
	if s.sent == 0 || s.received == 0 {
		return false, "nothing arrived"
	}
	ok, words := true, ""
	say := func(met bool, format string, args ...any) {
		ok = ok && met
		if words != "" {
			words += ", "
		}
		words += fmt.Sprintf(format, args...)
	}
	chance := func(got float64, permille int) bool {
		want := float64(permille) / 1000
		return got >= want*(1-chanceTolerance) && got <= want*(1+chanceTolerance)
	}
	if i.Loss > 0 {
		say(chance(s.lost(), i.Loss), "%.1f %% lost, wanted %.1f", 100*s.lost(), float64(i.Loss)/10)
	}
	if i.Duplicate > 0 {
		got := s.duplicated / s.received
		say(chance(got, i.Duplicate), "%.1f %% twice, wanted %.1f", 100*got, float64(i.Duplicate)/10)
	}
	if i.Corrupt > 0 { // what is wrong in the header of a datagram is lost
		got := s.corrupted / s.sent
		say(chance(got, i.Corrupt), "%.1f %% damaged, wanted %.1f", 100*got, float64(i.Corrupt)/10)
	}
	if i.Reorder > 0 { // one that overtakes makes all those late that it overtook
		got := s.reordered / s.received
		say(got >= float64(i.Reorder)/1000*(1-chanceTolerance), "%.1f %% overtaken, by %.1f", 100*got, float64(i.Reorder)/10)
	}
	if i.DelayMS > 0 {
		first := s.least
		if i.Reorder > 0 {
			first = s.most // those that go ahead are not late
		}
		say(first >= i.DelayMS-i.JitterMS-ms(earlyTolerance) && s.median <= i.DelayMS+i.JitterMS+ms(lateTolerance),
			"%.1f to %.1f ms late, wanted %v +- %v", s.least, s.most, i.DelayMS, i.JitterMS)
	}
	if i.RateKbit > 0 {
		say(s.kbit() > 0 && s.kbit() <= float64(i.RateKbit)*(1+rateTolerance), "%.0f kbit/s, wanted %d at most", s.kbit(), i.RateKbit)
	}
	return ok, words
}

// kbit is the rate of all links together, in 1000 bits a second; 0 where it cannot be told.
func (s sprayed) kbit() float64 {
	if s.lastMS <= s.firstMS {
		return 0
	}
	return s.bytes * 8 / (s.lastMS - s.firstMS)
}

func (s sprayed) lost() float64 { return max(0, s.sent-s.received-s.corrupted) / s.sent }

func (s sprayed) figures(into map[string]float64) {
	into["sent"], into["received"], into["duplicated"], into["corrupted"], into["reordered"] = s.sent, s.received, s.duplicated, s.corrupted, s.reordered
	into["lost"] = max(0, s.sent-s.received-s.corrupted)
	into["way_least_ms"], into["way_median_ms"], into["way_most_ms"], into["kbit"] = s.least, s.median, s.most, s.kbit()
}

// impaired judges a side that sends over impaired links, by what came of its datagrams. What is measured without rules is not gone, either.
func (s sight) impaired(i agent.Impairment) finding {
	shows, words := s.spray.shows(i)
	f := finding{figures: s.figures()}
	s.spray.figures(f.figures)
	for k, v := range map[string]uint64{
		"agent_delayed": s.after.Delayed, "agent_duplicated": s.after.Duplicated, "agent_corrupted": s.after.Corrupted, "agent_reordered": s.after.Reordered,
		"agent_overrun": s.after.Overrun, "agent_overflow": s.after.Overflow, "seen_out": s.after.SeenOut,
	} {
		f.figures[k] = float64(v)
	}
	switch {
	case s.present() && shows && s.after.SeenOut > s.before.SeenOut:
		f.presence = full
	case s.traces() || shows || s.spray.received == 0:
		f.presence = part
	}
	f.detail = fmt.Sprintf("rules in force: %v (%s), of %.0f datagrams sent: %s", s.present(), s.after.Via, s.spray.sent, words)
	return f
}

// besideTries is how often links that are not impaired may look as if they were: a machine that is busy for a moment is slow everywhere.
const besideTries = 4

// sprayBeside measures the links that are not impaired: they must not show what the others do. One look at which they do not is enough, since a link
// that is impaired is so at every look.
func (f *partition) sprayBeside(ctx context.Context, c cluster.Cluster, exclude []cluster.NodeID) (Observation, bool, error) {
	links, err := f.openLinks(c, exclude)
	if err != nil || len(links) == 0 {
		return Observation{}, false, err
	}
	var o Observation
	for try := 1; try == 1 || o.InForce && try <= besideTries; try++ {
		got, err := sprayLinks(ctx, links, f.ask.Impairment)
		if err != nil {
			return Observation{}, false, err
		}
		o = Observation{Figures: map[string]float64{"looks": float64(try)}}
		got.figures(o.Figures)
		shows, words := got.shows(f.ask.Impairment)
		o.InForce = shows || got.received == 0
		o.Detail = "over unaffected links: " + words
	}
	return o, true, nil
}
