package scenarios

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
	"github.com/unibus/unibus/sut/cluster"
)

// TestVictimThatDoesNotLead: no client reaches the nodes of this cluster, and so nobody's leadership is moved.
func TestVictimThatDoesNotLead(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for name, c := range map[string]struct {
		lead  Step
		after int // steps that follow
	}{
		"where it must":  {leadFromVictim("down", soon), 0},
		"where it might": {tryLeadFromVictim("down", soon), 1},
	} {
		t.Run(name, func(t *testing.T) {
			after := 0
			s := told(startAll(), step("pick", func(_ context.Context, r *Run) error { r.picked["down"] = []cluster.NodeID{"n2"}; return nil }), c.lead,
				step("after", func(context.Context, *Run) error { after++; return nil }))
			e := executed(t.Context(), t, s, &fakeBackend{t: t})
			if after != c.after || len(e.Evidence.Errors) > 0 {
				t.Errorf("%d steps followed, want %d; errors %q", after, c.after, e.Evidence.Errors)
			}
			if c.after == 0 && e.Status != reports.StatusInconclusive {
				t.Errorf("the status is %s: %s", e.Status, e.Why)
			}
		})
	}
}

// TestWhoLeadsIsJudged: by the nodes' own word, at both looks.
func TestWhoLeadsIsJudged(t *testing.T) {
	for name, c := range map[string]struct {
		leaders []string // at the looks, one after the other
		want    check.Verdict
	}{
		"the victim":            {[]string{"n2", "n2"}, check.Pass},
		"another one":           {[]string{"n1", "n1"}, check.Inconclusive},
		"the victim at first":   {[]string{"n2", "n3"}, check.Inconclusive},
		"the victim in the end": {[]string{"n3", "n2"}, check.Inconclusive},
		"one look":              {[]string{"n2"}, check.Inconclusive},
		"nobody looked":         {nil, check.Inconclusive},
	} {
		t.Run(name, func(t *testing.T) {
			rec, err := history.NewRecorder(io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			b := &fakeBackend{t: t}
			cl, err := b.NewCluster(t.Context(), cluster.Spec{})
			if err != nil {
				t.Fatal(err)
			}
			r := &Run{Cluster: cl, Rec: rec, picked: map[string][]cluster.NodeID{"down": {"n2"}}}
			for i, leader := range c.leaders {
				for _, n := range b.made[0].nodes {
					n.mu.Lock()
					n.state.Running, n.leads = true, leader
					n.mu.Unlock()
				}
				if err := lookWhoLeads([]string{ledBefore, ledAfter}[i], "down").Do(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
			rec.Last(func(h *history.History) {
				if res, err := victimLed().Spec.Run(h); err != nil || res.Verdict != c.want {
					t.Errorf("%v: %+v (%v)", res.Verdict, res, err)
				}
			})
		})
	}
}

// TestLeadersAreLookedAt: where a victim is to lead, that is looked at around what is read back, and claimed. Only the track record goes on where it does not.
func TestLeadersAreLookedAt(t *testing.T) {
	var found []string
	look := func(t *testing.T, r *Run, steps []string) {
		must, might := false, false
		for _, s := range steps {
			must, might = must || strings.HasPrefix(s, leadPrefix), might || strings.HasPrefix(s, tryLeadPrefix)
		}
		if !must && !might {
			return
		}
		found = append(found, r.Scenario.Name)
		if must != (r.Scenario.Family == damagedFamily) {
			t.Errorf("%s goes on whoever leads: %v", r.Scenario.Name, !must)
		}
		back := slices.Index(steps, drainResting(0).Name)
		if back < 1 || steps[back-1] != lookWhoLeads(ledBefore, "").Name || back+1 == len(steps) || steps[back+1] != lookWhoLeads(ledAfter, "").Name {
			t.Errorf("%s does not look who leads before and after everything is read back: %q", r.Scenario.Name, steps)
		}
		if !slices.ContainsFunc(claimsOf(t, r), func(c reports.Claim) bool { return c.ID == victimLed().ID }) {
			t.Errorf("%s claims nothing of who leads", r.Scenario.Name)
		}
	}
	for _, s := range All() {
		r, steps := planned(t, s, cluster.Membershipd, 7, false)
		look(t, r, steps)
	}
	for _, b := range TrackRecord() {
		for _, s := range []*Scenario{&b.Scenario, b.Control} {
			if s != nil {
				r := trackRun(*s, 7)
				look(t, r, stepNames(r))
			}
		}
	}
	if len(found) != 8 { // two damages, on membershipd and in the track record, there with controls; and 7594 with its control
		t.Errorf("victims are to lead in %q", found)
	}
}
