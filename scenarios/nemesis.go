package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
)

const nemesisName = "nemesis"

// Settings of the random nemesis. What is short overlaps with elections and catch-up, which is where published bugs were found; what is
// long lets a lost quorum be noticed, which takes nats-server 10 s.
const (
	nemesisDefault = time.Minute
	nemesisMaximum = 24 * time.Hour
	strikeLeast    = 300 * time.Millisecond
	strikeMost     = 5 * time.Second
	strikeLong     = 12 * time.Second
	longOneIn      = 8
	gapMost        = 3 * time.Second
	convergeOneIn  = 5 // so often the next strike waits until the cluster has converged
	convergeCost   = 5 * time.Second
	minorityMax    = 1 // of three nodes
	strikesLeast   = 3 // in the shortest plan
	variedOneIn    = 6 // so often a strike is a storm, and so often another fault is in force meanwhile
	stormLeast     = 3 // strikes of a storm
	stormMost      = 5
	stormPause     = 700 * time.Millisecond
	alongLead      = 500 * time.Millisecond
)

// strike is one fault of a random plan.
type strike struct {
	number   int // from 1; stays the same when others are left out
	verb     faults.Entry
	sel      faults.Selector
	hold     time.Duration
	gap      time.Duration // after it was healed
	converge bool          // wait for that after the gap
	seed     uint64        // of its own picks, so that leaving out a strike does not change the others'
	storm    int           // so many times in a row: of a leader a hunt, of a node a crash loop, of a link one that flaps; 0 for once
	along    *part         // what is in force meanwhile, and costs no quorum
}

func (s strike) name() string { return fmt.Sprintf("strike-%d", s.number) }

// seeded is a selector with its own generator.
type seeded struct {
	faults.Selector
	seed uint64
}

// Pick ignores the run's generator.
func (s seeded) Pick(ctx context.Context, c cluster.Cluster, _ *rand.Rand) ([]cluster.NodeID, error) {
	return s.Selector.Pick(ctx, c, rand.New(rand.NewPCG(s.seed, 0)))
}

// strikes draws the plan: the same seed, length and mode give the same one, and keep leaves some of it out.
//
// It is lawful: at most a minority is hit at a time. With Any set there is no such limit, except for volumes: what a majority of disks has
// lost is nobody's bug.
func (p *Plan) strikes() []strike {
	rng := rand.New(rand.NewPCG(p.Seed, 0x6e656d65736973)) // not the run's generator: its state depends on who asked first
	length := p.For
	if length <= 0 {
		length = nemesisDefault
	}
	var all []strike
	for spent := time.Duration(0); spent < length || len(all) < strikesLeast; {
		s := p.draw(rng, len(all)+1)
		all = append(all, s)
		spent += time.Duration(max(1, s.storm)) * (s.hold + s.gap)
		if s.converge {
			spent += convergeCost
		}
	}
	if len(p.Keep) > 0 {
		all = slices.DeleteFunc(all, func(s strike) bool { return !slices.Contains(p.Keep, s.number) })
	}
	return all
}

// draw draws one strike; every strike takes as many numbers from the generator as any other.
func (p *Plan) draw(rng *rand.Rand, number int) strike {
	verbs := nemesisVerbs()
	if number == 1 { // the load rests while a volume is lost, and a run in which it always rests shows little
		verbs = slices.DeleteFunc(verbs, func(e faults.Entry) bool { return losesVolume(e.Name) })
	}
	s := strike{number: number, verb: verbs[rng.IntN(len(verbs))], seed: rng.Uint64()}
	sels := nemesisSelectors(s.verb.Name, p.Any)
	s.sel = seeded{sels[rng.IntN(len(sels))], s.seed}
	s.hold = strikeLeast + upTo(rng, strikeMost-strikeLeast)
	if rng.IntN(longOneIn) == 0 {
		s.hold = strikeLong
	}
	s.gap = upTo(rng, gapMost)
	s.converge = rng.IntN(convergeOneIn) == 0
	if losesVolume(s.verb.Name) {
		s.converge = true
	}
	s.vary()
	s.hold, s.gap = s.hold.Round(10*time.Millisecond), s.gap.Round(10*time.Millisecond)
	return s
}

// vary makes a storm of some strikes, and lets others have company. It draws from the strike's own seed.
func (s *strike) vary() {
	rng := rand.New(rand.NewPCG(s.seed, 1))
	storm, along := rng.IntN(variedOneIn) == 0, rng.IntN(variedOneIn) == 0
	switch {
	case storm && slices.Contains([]string{"kill", "pause", "restart", "isolate", "sever", "cut-routes", "reset"}, s.verb.Name):
		s.storm = stormLeast + rng.IntN(stormMost-stormLeast+1)
		s.hold, s.gap = strikeLeast+upTo(rng, stormPause), upTo(rng, stormPause)
	case along && slices.Contains([]string{"kill", "stop", "pause", "restart", "starve"}, s.verb.Name):
		lame := []string{"lossy", "slow", "duplicate", "reorder", "throttle"}
		e, _ := faults.Lookup(lame[rng.IntN(len(lame))])
		s.along = &part{word: e.Name, verb: e.Make, sel: seeded{faults.Random(minorityMax), rng.Uint64()}}
	}
}

// sequence is what is done for the strike.
func (s strike) sequence() sequence {
	b := strikeWith(s.verb.Name, s.verb.Make, s.sel, s.hold, s.gap)
	if s.along != nil {
		b = both(blow{parts: []part{*s.along}}, b, alongLead)
	}
	return repeat(max(1, s.storm), b)
}

func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

func losesVolume(verb string) bool { return verb == "kill-and-wipe" }

// nemesisVerbs are the catalogue's verbs on running nodes.
func nemesisVerbs() []faults.Entry {
	return slices.DeleteFunc(faults.Catalogue(), func(e faults.Entry) bool {
		return !slices.Contains([]string{
			"kill", "stop", "pause", "restart", "starve", "kill-and-wipe",
			"isolate", "sever", "deafen", "mute", "split", "cut-routes", "cut-clients",
			"lossy", "slow", "duplicate", "corrupt", "reorder", "throttle", "reset", "half-open", "dns-failure",
		}, e.Name)
	})
}

func nemesisSelectors(verb string, unlimited bool) []faults.Selector {
	if verb == "sever" {
		return []faults.Selector{faults.LeaderAndFollower(ordersCopies), faults.Random(minorityMax + 1)}
	}
	sels := []faults.Selector{faults.Leader(ordersCopies), faults.MetaLeader(), faults.Follower(ordersCopies), faults.Random(minorityMax)}
	if unlimited && !losesVolume(verb) {
		sels = append(sels, faults.Majority(), faults.All())
	}
	return sels
}

// nemesis strikes at random, by seed, and looks for any of the losses that the other scenarios look for one by one.
func nemesis() Scenario {
	return Scenario{
		Name: nemesisName, Family: nemesisName, Seconds: 100, Nightly: true,
		Doc:   "a random lawful plan of faults by seed (--for its length, --any without the limit to a minority): nothing acked lost, all converged at the end",
		Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapNetwork, cluster.CapStorage, cluster.CapResources},
		Steps: func(p *Plan) []Step {
			steps := []Step{startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(steadyBefore, opsWithin)}
			for _, s := range p.strikes() {
				steps = append(steps, s.steps()...)
			}
			return append(steps, converge("after the last strike"), moreOps(steadyBefore, opsWithin), stopLoad(), converge("at the end"))
		},
		Claims: func(r *Run) []reports.Claim {
			cs := []reports.Claim{
				streamIntact(100), kvWritesLinear(60), kvDurable(), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(r.injections()),
				exercised(check.Preconditions{MinOps: 400, MinBefore: 100, MinDuring: 5, MinAfter: 20, Drained: drained(r)}),
			}
			return slices.Concat(cs, loadIntact(), settingsIntact(r))
		},
	}
}

// steps are what is done for one strike. A volume is lost while nothing is written and everything is on all nodes: a replica that comes back
// empty votes as if it had never acked anything, and what only it and one other node had would be lost to nobody's fault.
func (s strike) steps() []Step {
	steps := s.sequence().steps(s.name())
	if s.converge {
		steps = append(steps, converge("after "+s.name()))
	}
	if losesVolume(s.verb.Name) {
		steps = slices.Concat([]Step{pauseLoad(), converge("before " + s.name())}, steps, []Step{resumeLoad()})
	}
	return steps
}

// Strikes describes the plan of the random nemesis, one line per strike, for people.
func (p *Plan) Strikes() []string {
	var out []string
	for _, s := range p.strikes() {
		line := fmt.Sprintf("%3d  %-13s on %-32s for %6v, then %6v", s.number, s.verb.Name, s.sel.Name(), s.hold, s.gap)
		if s.storm > 0 {
			line += fmt.Sprintf(", %d times", s.storm)
		}
		if s.along != nil {
			line += fmt.Sprintf(", while %s is on %s", s.along.word, s.along.sel.Name())
		}
		if s.converge {
			line += ", then until converged"
		}
		out = append(out, line)
	}
	return out
}

// StrikeNumbers lists the strikes of the plan: what Keep selects from.
func (p *Plan) StrikeNumbers() []int {
	var out []int
	for _, s := range p.strikes() {
		out = append(out, s.number)
	}
	return out
}

// NemesisPlan is the plan that a run of the random nemesis would follow.
func NemesisPlan(kind cluster.Kind, seed uint64, n Nemesis) *Plan {
	return NewPlan(nemesis(), kind, seed, false, n)
}

// Check says what is wrong with the bounds, in one sentence.
func (n Nemesis) Check() error {
	if n.For < 0 || n.For > nemesisMaximum {
		return fmt.Errorf("the length %v is not one: want up to %v", n.For, nemesisMaximum)
	}
	for _, k := range n.Keep {
		if k < 1 {
			return fmt.Errorf("there is no strike %d: they are numbered from 1", k)
		}
	}
	return nil
}

// flags are the words that repeat the plan on the command line.
func (n Nemesis) flags() string {
	var b strings.Builder
	if n.For > 0 {
		fmt.Fprintf(&b, " FOR=%v", n.For)
	}
	if n.Any {
		b.WriteString(" ANY=1")
	}
	if len(n.Keep) > 0 {
		var ks []string
		for _, k := range n.Keep {
			ks = append(ks, strconv.Itoa(k))
		}
		b.WriteString(" KEEP=" + strings.Join(ks, ","))
	}
	return b.String()
}
