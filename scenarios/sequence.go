package scenarios

import (
	"fmt"
	"strings"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/sut/cluster"
)

// part is one fault of a blow: a verb, and who gets it. Who leads is asked when it is that part's turn.
type part struct {
	word string // "kill": the end of the injection's name
	verb faults.Verb
	sel  faults.Selector
}

// blow is a fault that is in force for a while, or several at a time: injected in order, lead apart, healed in reverse.
//
//	inject 1 ── lead ── inject 2 ── hold ── heal 2 ── heal 1 ── gap (── converge)
//
// Each part is probed like any other fault, and whatever ends the run heals all of them.
type blow struct {
	parts           []part
	lead, hold, gap time.Duration
	calm            bool // the next blow waits until the cluster has converged
}

// sequence is blows, one after the other.
type sequence []blow

// strikeWith is a blow of one fault.
func strikeWith(word string, verb faults.Verb, sel faults.Selector, hold, gap time.Duration) blow {
	return blow{parts: []part{{word, verb, sel}}, hold: hold, gap: gap}
}

// both has b in force while a is: b begins lead after a, holds as long as it would alone, and is gone before a is.
func both(a, b blow, lead time.Duration) blow {
	b.parts, b.lead = append(append([]part(nil), a.parts...), b.parts...), lead
	return b
}

// calmly waits until the cluster has converged after the blow.
func calmly(b blow) blow { b.calm = true; return b }

// repeat is n rounds of blows.
func repeat(n int, round ...blow) sequence {
	var s sequence
	for range n {
		s = append(s, round...)
	}
	return s
}

// steps are those of the whole sequence; the names of its faults begin with the given one.
func (s sequence) steps(name string) []Step {
	var steps []Step
	for i, b := range s {
		steps = append(steps, b.steps(fmt.Sprintf("%s-%d", name, i+1))...)
	}
	return steps
}

func (b blow) steps(name string) []Step {
	var steps []Step
	for i, p := range b.parts {
		if i > 0 && b.lead > 0 {
			steps = append(steps, hold("one of two", b.lead))
		}
		steps = append(steps, inject(name+"-"+p.word, p.verb, p.sel))
	}
	if b.hold > 0 {
		steps = append(steps, hold("in force", b.hold))
	}
	for i := len(b.parts) - 1; i >= 0; i-- {
		steps = append(steps, heal(name+"-"+b.parts[i].word))
	}
	if b.gap > 0 {
		steps = append(steps, hold("gap", b.gap))
	}
	if b.calm {
		steps = append(steps, converge("after "+name))
	}
	return steps
}

// injectPrefix begins the names of steps that inject a fault.
const injectPrefix = "inject "

// injections counts the faults of the plan.
func (r *Run) injections() (n int) {
	for _, st := range r.steps {
		if strings.HasPrefix(st.Name, injectPrefix) {
			n++
		}
	}
	return n
}

// shuffled is the nodes in an order that the seed chooses.
func shuffled(p *Plan) []cluster.NodeID {
	ids := others()
	p.Rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids
}
