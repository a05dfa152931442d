package check

import (
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// Faults ("faults") demands that every fault was measured absent, in force, and gone again, and that it left bystanders alone.
type Faults struct {
	Min int `json:"min,omitempty"` // fewer faults are Inconclusive; 0 means 1
	// Noop makes it the negative control: every fault must be marked as deliberately not injected, and is then judged like any
	// other. A harness that measures finds not-in-force; Pass means that its probes see what is not there.
	Noop bool `json:"noop,omitempty"`
	// Names are prefixes of the names of the faults that are judged; empty means all.
	Names []string `json:"names,omitempty"`
}

// Keys of a fault event's Data.
const (
	dataInForce = "in_force" // bool: what the probe measured
	dataForceMS = "force_ms" // milliseconds from decided to in force, measured by the runner
	dataKept    = "kept"     // bool, on in-force: the fault stays to the end of the scenario
)

//	            (not seen)
//	absent -> decided -> in-force -> still-on* -> healing -> healed
//	                        \__ kept: the run ends here

// faultRun is one fault's way through its stages.
type faultRun struct {
	name                                            string
	absent, decided, inForce, healing, healed       *history.Event
	wasThere, lostHold, notSeen, notGone, bystander *history.Event
	noop, kept                                      bool
	unprobed                                        string // a probe that says nothing
}

// Check implements Checker.
func (c Faults) Check(h *history.History) Result {
	runs := slices.DeleteFunc(faultRuns(h), func(f *faultRun) bool { return !hasPrefix(f.name, c.Names) })
	before := violation{code: CodeWasThere, promise: promiseFault}
	not := violation{code: CodeNotInForce, promise: promiseFault}
	heal := violation{code: CodeNotHealed, promise: promiseFault}
	by := violation{code: CodeBystanderHit, promise: promiseFault}
	for _, f := range runs {
		f.judge(&before, &not, &heal, &by)
	}
	figures := faultFigures(runs)
	before.reason = fmt.Sprintf("%d of %d faults were there before they were injected.", before.count, len(runs))
	not.reason = fmt.Sprintf("%d of %d faults were not in force.", not.count, len(runs))
	heal.reason = fmt.Sprintf("%d of %d faults were not gone after healing.", heal.count, len(runs))
	by.reason = fmt.Sprintf("%d of %d faults hit a bystander.", by.count, len(runs))
	if c.Noop {
		for _, f := range runs {
			if !f.noop {
				return inconclusive(figures, CodeNotNoop, "The fault %s is not marked as a no-op.", f.name)
			}
		}
	}
	if r, bad := found(figures, not, before, heal, by); bad {
		return r
	}
	for _, f := range runs {
		if f.unprobed != "" {
			return inconclusive(figures, CodeNotProbed, "The fault %s was not probed: %s.", f.name, f.unprobed)
		}
	}
	if need := orDefault(c.Min, 1); len(runs) < need {
		return inconclusive(figures, CodeNoFaults, "The record has %d faults, at least %d are needed.", len(runs), need)
	}
	return passed(figures, "All %d faults were measured absent, in force and gone again; no bystander was hit.", len(runs))
}

// faultRuns groups the fault events by name, in the order of their first event.
func faultRuns(h *history.History) []*faultRun {
	var runs []*faultRun
	byName := map[string]*faultRun{}
	for i := range h.Events {
		e := &h.Events[i]
		if e.Kind != "fault" {
			continue
		}
		f := byName[e.Name]
		if f == nil {
			f = &faultRun{name: e.Name}
			byName[e.Name] = f
			runs = append(runs, f)
		}
		f.step(e)
	}
	for _, f := range runs {
		f.finish()
	}
	return runs
}

func (f *faultRun) step(e *history.Event) {
	measured, said := e.Data[dataInForce].(bool)
	switch e.Stage {
	case history.StageAbsent:
		f.absent = first(f.absent, e)
		if measured || f.decided != nil {
			f.wasThere = first(f.wasThere, e)
		}
	case history.StageDecided:
		f.decided = first(f.decided, e)
		f.noop = f.decided.Noop
	case history.StageInForce:
		if said && !measured {
			f.notSeen = first(f.notSeen, e)
			return
		}
		f.inForce = first(f.inForce, e)
		kept, _ := e.Data[dataKept].(bool)
		f.kept = f.kept || kept
	case history.StageStillOn:
		if said && !measured {
			f.lostHold = first(f.lostHold, e)
		}
	case history.StageHealing:
		f.healing = first(f.healing, e)
	case history.StageHealed:
		if measured {
			f.notGone = first(f.notGone, e)
			return
		}
		f.healed = first(f.healed, e)
	case history.StageNotSeen:
		f.missed(e)
	case history.StageBystand:
		if measured {
			f.bystander = first(f.bystander, e)
		} else if !said {
			f.unprobed = "the probe of a bystander says nothing"
		}
	default:
		f.unprobed = fmt.Sprintf("%q is no stage of a fault", e.Stage)
	}
}

// missed files a probe that never saw what it waited for: which that was follows from the stage before.
func (f *faultRun) missed(e *history.Event) {
	switch {
	case f.decided == nil:
		f.wasThere = first(f.wasThere, e)
	case f.healing != nil && f.inForce != nil:
		f.notGone = first(f.notGone, e)
	case f.inForce != nil && f.healing == nil:
		f.lostHold = first(f.lostHold, e)
	default:
		f.notSeen = first(f.notSeen, e)
	}
}

// finish looks at the stages together.
func (f *faultRun) finish() {
	switch {
	case f.unprobed != "":
	case f.decided == nil:
		f.unprobed = "nothing says when it was decided"
	case f.absent == nil:
		f.unprobed = "nothing says that it was absent before"
	case f.inForce != nil && (f.inForce.At < f.decided.At || f.decided.At < f.absent.At), f.healed != nil && (f.healing == nil || f.healed.At < f.healing.At),
		f.healing != nil && f.inForce != nil && f.healing.At < f.inForce.At:
		f.unprobed = "its stages are out of order"
	}
}

func (f *faultRun) judge(before, not, heal, by *violation) {
	if f.wasThere != nil {
		before.count++
		before.seen.add(f.wasThere.At, nil, "%s: %s", f.name, orDash(f.wasThere.Detail))
	}
	switch {
	case f.notSeen != nil:
		not.count++
		not.seen.add(f.notSeen.At, nil, "%s: %s", f.name, orDash(f.notSeen.Detail))
	case f.inForce == nil:
		not.count++
		not.seen.add(0, nil, "%s: no probe says that it was in force", f.name)
	case f.lostHold != nil:
		not.count++
		not.seen.add(f.lostHold.At, nil, "%s went away while it was held: %s", f.name, orDash(f.lostHold.Detail))
	case f.notGone != nil:
		heal.count++
		heal.seen.add(f.notGone.At, nil, "%s: %s", f.name, orDash(f.notGone.Detail))
	case f.healed == nil && (!f.kept || f.healing != nil):
		heal.count++
		heal.seen.add(0, nil, "%s: no probe says that it was gone", f.name)
	}
	if f.bystander != nil {
		by.count++
		by.seen.add(f.bystander.At, nil, "%s on %s: %s", f.name, orDash(strings.Join(f.bystander.Nodes, ", ")), orDash(f.bystander.Detail))
	}
}

func first(old, e *history.Event) *history.Event {
	if old != nil {
		return old
	}
	return e
}

// verb is the word before the victims in a fault's name: "kill[n2]#3", and "first kill[n2]" too, is a kill.
func verb(name string) string {
	v, _, _ := strings.Cut(name, "[")
	return v[strings.LastIndex(v, " ")+1:]
}

// force is how long it took from decided to in force, in milliseconds.
func (f *faultRun) force() (float64, bool) {
	if f.inForce == nil || f.decided == nil {
		return 0, false
	}
	if ms, ok := f.inForce.Data[dataForceMS].(float64); ok {
		return ms, true
	}
	return float64(f.inForce.At-f.decided.At) / 1e6, true
}

func faultFigures(runs []*faultRun) []Figure {
	var force []float64
	kinds := map[string]int{}
	noops, kept := 0, 0
	for _, f := range runs {
		kinds[verb(f.name)]++
		if f.noop {
			noops++
		}
		if f.kept {
			kept++
		}
		if ms, ok := f.force(); ok {
			force = append(force, ms)
		}
	}
	slices.Sort(force)
	figures := []Figure{count("faults", len(runs)), count("in_force", len(force)), count("noops", noops), count("kept", kept),
		{Name: "force_median", Value: round(median(force)), Unit: "ms"}, {Name: "force_max", Value: round(quantile(force, 1)), Unit: "ms"}, count("kinds", len(kinds))}
	for _, k := range sortedKeys(kinds) {
		figures = append(figures, count("kind "+k, kinds[k]))
	}
	return figures
}
